"""ReRe (Tan et al. 2025, arXiv 2510.12211): wrong answers lose the more, the likelier the policy finds them."""

from __future__ import annotations

import torch

from mllmrec.rewards.base import Rewards, Shaper
from mllmrec.rl.batch import RolloutBatch
from mllmrec.rl.parts import OLD
from mllmrec.variants.unlikeliness import ranks_within


class RankPenalty(Shaper):
    """Takes ``weight * v`` from wrong rows of groups that have a right one, where the v of a group add up to 1.

    The row at place j in the order of likelihood, from 0 for the likeliest, has a v in proportion to ``1 / log2(j + 2)``.
    Equally likely rows share the mean of their places. The likelihood is the sum of a row's learnt log-probabilities.

    The accuracy is the reward's part of this name, or the total if the reward has no such part.

    Args:
        weight: of the penalty.
        right: the least accuracy of a right row.
        accuracy: name of the part.
    """

    needs = frozenset({OLD})
    parts = ("rank_penalty",)

    def __init__(self, weight: float = 1.0, right: float = 1.0, accuracy: str = "hit") -> None:
        if weight < 0:
            raise ValueError(f"weight={weight}: must be at least 0")
        self.weight, self.right, self.accuracy = weight, right, accuracy

    def bounds(self, low: float, high: float) -> tuple[float, float]:
        """Up to the weight less."""
        return low - self.weight, high

    def __call__(self, batch: RolloutBatch) -> Rewards:
        """See the class; the part is what was added, (R,)."""
        assert batch.old is not None
        total, groups = batch.judged(), batch.groups
        right = batch.parts.get(self.accuracy, total) >= self.right - 1e-6
        likelihood = torch.where(batch.learnt, batch.old, 0.0).sum(1).cpu()
        value = 1 / (ranks_within(-likelihood, groups.group_of) + 2).log2()
        sums = value.new_zeros(groups.count).index_add(0, groups.group_of, value)
        paid = ~right & groups.rows(groups.any(right))
        penalty = torch.where(paid, -self.weight * value / groups.rows(sums), 0.0)
        return Rewards(total + penalty, {"rank_penalty": penalty})
