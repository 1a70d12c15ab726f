"""Multi-objective GRPO (Li et al. 2025, arXiv 2503.21819): several measures of an answer, weighted and added up.

The authors' measures are outputs of one reward model of safety and quality. Here they are parts of the reward and of shapers.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from mllmrec.rewards.base import Rewards, Shaper
from mllmrec.rl.batch import RolloutBatch


class WeightedParts(Shaper):
    """Replaces each reward by the weighted sum of parts of the reward and of the shapers before this one.

    Parts are taken to lie between -1 and 1. Parts that no weight names count for nothing, and so does the total before.

    Raises:
        ValueError: ``weights`` is empty.
    """

    needs_parts = True

    def __init__(self, weights: Mapping[str, float]) -> None:
        if not weights:
            raise ValueError("weights is empty: name parts of the reward, as in {hit: 1.0}")
        self.weights = {str(name): float(one) for name, one in weights.items()}

    def bounds(self, low: float, high: float) -> tuple[float, float]:
        """The sum of all weights, and minus it."""
        most = sum(abs(weight) for weight in self.weights.values())
        return -most, most

    def __call__(self, batch: RolloutBatch) -> Rewards:
        """See the class.

        Raises:
            ValueError: nothing has paid a part that the weights name.
        """
        missing = [name for name in self.weights if name not in batch.parts]
        if missing:
            raise ValueError(f"weights.{missing[0]}: no such part, but {', '.join(batch.parts) or 'none'}")
        total = torch.zeros(len(batch))
        for name, weight in self.weights.items():
            total = total + weight * batch.parts[name]
        return Rewards(total)


class Diversity(Shaper):
    """Adds ``weight`` times the share of the group's other rows that name something else; an answer without items adds 0.

    Ranked lists are the same if they name the same items in the same order. If rows carry probabilities, the share is the
    probability of another answer.
    """

    parts = ("diversity",)

    def __init__(self, weight: float = 0.0) -> None:
        self.weight = weight

    def bounds(self, low: float, high: float) -> tuple[float, float]:
        """A share, weighted."""
        return low + min(self.weight, 0.0), high + max(self.weight, 0.0)

    def __call__(self, batch: RolloutBatch) -> Rewards:
        """See the class; the part is the share, (R,)."""
        named = [tuple(item for item, _ in answer.items) for answer in batch.answers]
        codes = {one: code for code, one in enumerate(dict.fromkeys(named))}
        says = torch.tensor([codes[one] for one in named])
        peers = batch.group_of[:, None] == batch.group_of
        weights = torch.ones(len(batch)) if batch.weights is None else batch.weights.cpu()
        others = (peers & (says[:, None] != says)).float() @ weights
        everyone = peers.float() @ weights
        if batch.weights is None:
            everyone = everyone - 1
        share = torch.where(everyone > 0, others / everyone.clamp_min(1e-12), 0.0).clamp_max(1.0)
        share = share * torch.tensor([float(bool(one)) for one in named])
        return Rewards(batch.judged() + self.weight * share, {"diversity": share})
