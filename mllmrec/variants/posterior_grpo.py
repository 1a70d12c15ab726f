"""Posterior-GRPO (Fan et al. 2025, arXiv 2508.05170): the quality of reasoning is paid only where the answer is right."""

from __future__ import annotations

import torch
from torch import Tensor

from mllmrec.rewards.base import Rewards, Shaper
from mllmrec.rl.batch import RolloutBatch
from mllmrec.rl.parts import REFERENCE


class Posterior(Shaper):
    """Adds ``weight * accuracy * quality``, so that with a reward of format and hit the total is ``f + o + o * t``.

    The authors' quality ``t`` is the score of a reward model. Here it is how far the reasoning supports the answer: the
    reference's probability of the answer's tokens, given prompt and reasoning, as a geometric mean. The answer's tokens are
    the learnt ones, without those in no segment (-1), such as reasoning, if the batch tells segments apart. A judge of your
    own overrides `quality`.

    The accuracy is the reward's part of this name, or the total if the reward has no such part; below 0 it counts as 0.
    """

    needs = frozenset({REFERENCE})
    parts = ("quality",)

    def __init__(self, weight: float = 1.0, accuracy: str = "hit") -> None:
        if weight < 0:
            raise ValueError(f"weight={weight}: must be at least 0")
        self.weight, self.accuracy = weight, accuracy

    def bounds(self, low: float, high: float) -> tuple[float, float]:
        """A part such as ``hit`` is at most 1, a total at most ``high``."""
        return low, high + self.weight * max(high, 1.0)

    def __call__(self, batch: RolloutBatch) -> Rewards:
        """See the class."""
        total, quality = batch.judged(), self.quality(batch)
        accuracy = batch.parts.get(self.accuracy, total).clamp_min(0)
        return Rewards(total + self.weight * accuracy * quality, {"quality": quality})

    def quality(self, batch: RolloutBatch) -> Tensor:
        """(R,) between 0 and 1, on the CPU."""
        assert batch.reference is not None
        tokens = batch.learnt if batch.segments is None else batch.learnt & (batch.segments >= 0)
        mean = torch.where(tokens, batch.reference, 0.0).sum(1) / tokens.sum(1).clamp_min(1)
        return mean.exp().clamp_max(1.0).cpu()
