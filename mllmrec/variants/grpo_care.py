"""GRPO-CARE (Chen et al. 2025, arXiv 2506.16141): right answers are paid more if their reasoning makes them likely."""

from __future__ import annotations

import torch
from torch import Tensor

from mllmrec.rewards.base import Rewards, Shaper
from mllmrec.rl.batch import RolloutBatch
from mllmrec.rl.parts import REFERENCE


class ConsistencyBonus(Shaper):
    """Adds ``weight * accuracy`` to right answers that a slow reference finds as likely as the group's right ones.

    The likelihood of an answer, given the prompt and the row's own reasoning, is ``c = min(exp(mean of the reference's
    log-probabilities of the answer's tokens), cap)``. A row is right if its accuracy is above ``least`` and at least
    its group's mean. It gets the bonus if ``c >= mean c of the group's right rows - margin``.

    The accuracy is the reward's part of this name, or the total if the reward has no such part. The answer's tokens are
    the learnt ones, without those in no segment (-1), such as reasoning, if the batch tells segments apart.
    """

    needs = frozenset({REFERENCE})
    parts = ("consistency", "consistency_bonus")

    def __init__(
        self,
        weight: float = 0.5,
        margin: float = 0.01,
        cap: float = 0.95,
        least: float = 0.1,
        accuracy: str = "hit",
    ) -> None:
        self.weight, self.margin, self.cap = weight, margin, cap
        self.least, self.accuracy = least, accuracy

    def __call__(self, batch: RolloutBatch) -> Rewards:
        """See `Shaper`."""
        total, groups, likely = batch.judged(), batch.groups, self.likelihood(batch)
        accuracy = batch.parts.get(self.accuracy, total)
        right = (accuracy > self.least) & (accuracy >= groups.rows(groups.mean(accuracy)) - 1e-6)
        share = groups.mean(right.to(total.dtype))
        # The mean over right rows; a group without one pays no bonus, whatever it is compared with.
        usual = groups.mean(torch.where(right, likely, 0.0)) / share.clamp_min(1e-12)
        paid = right & (likely >= groups.rows(usual) - self.margin - 1e-6)
        bonus = torch.where(paid, self.weight * accuracy, 0.0)
        return Rewards(total + bonus, {"consistency": likely, "consistency_bonus": bonus})

    def likelihood(self, batch: RolloutBatch) -> Tensor:
        """(R,) c, on the CPU."""
        assert batch.reference is not None
        tokens = batch.learnt if batch.segments is None else batch.learnt & (batch.segments >= 0)
        mean = torch.where(tokens, batch.reference, 0.0).sum(1) / tokens.sum(1).clamp_min(1)
        return mean.exp().clamp_max(self.cap).cpu()

    def bounds(self, low: float, high: float) -> tuple[float, float]:
        """A part such as ``hit`` is at most 1, a total at most ``high``."""
        return low, high + self.weight * max(high, 1.0)
