"""Rewarding the Unlikely (He et al. 2025, arXiv 2506.02355): of a group's right answers, the likely ones earn less."""

from __future__ import annotations

import torch
from torch import Tensor

from mllmrec.rewards.base import Rewards, Shaper
from mllmrec.rl.batch import RolloutBatch
from mllmrec.rl.parts import OLD


class Unlikeliness(Shaper):
    """Multiplies positive rewards by ``1 - beta * k / G``; others stay as they are.

    ``k`` counts the rows of the group that the policy finds less likely: 0 for the least likely of G rows. Equally likely
    rows share the mean of their ranks. The likelihood is the mean of the log-probabilities of a row's learnt tokens.

    Args:
        beta: what the most likely rows lose, almost, as a share of their reward.
        tokens: ``all`` learnt tokens, or those of the ``reasoning``, which are in no segment (-1). A row without such
            tokens counts as certain.
        equal: whether groups of equal rewards are shaped too. They then have advantages, although all of their answers
            are right.

    Raises:
        ValueError: ``tokens`` is neither, or ``beta`` lies outside 0 to 1.
    """

    needs = frozenset({OLD})
    parts = ("likelihood_rank",)

    def __init__(self, beta: float = 0.25, tokens: str = "all", equal: bool = True) -> None:
        if tokens not in ("all", "reasoning"):
            raise ValueError(f"tokens={tokens!r} is none of all, reasoning")
        if not 0 <= beta <= 1:
            raise ValueError(f"beta={beta}: must be between 0 and 1")
        self.beta, self.tokens, self.equal = beta, tokens, equal

    def __call__(self, batch: RolloutBatch) -> Rewards:
        """See the class; the part is ``k / G``, (R,)."""
        total, groups = batch.judged(), batch.groups
        ranks = ranks_within(self.likelihood(batch), groups.group_of) / groups.rows(groups.sizes)
        shaped = total > 0
        if not self.equal:
            shaped &= ~groups.rows(groups.all_equal(total))
        return Rewards(
            torch.where(shaped, total * (1 - self.beta * ranks), total), {"likelihood_rank": ranks}
        )

    def likelihood(self, batch: RolloutBatch) -> Tensor:
        """(R,) mean log-probability under the policy that drew the rows, on the CPU."""
        assert batch.old is not None
        tokens = batch.learnt
        if self.tokens == "reasoning" and batch.segments is not None:
            tokens = tokens & (batch.segments < 0)
        return (torch.where(tokens, batch.old, 0.0).sum(1) / tokens.sum(1).clamp_min(1)).cpu()


def ranks_within(values: Tensor, group_of: Tensor, tolerance: float = 1e-6) -> Tensor:
    """(R,) → (R,): how many values of its group are smaller than a row's; equal values share the mean of their ranks."""
    peers = group_of[:, None] == group_of
    distance = values[:, None] - values
    less = (peers & (distance > tolerance)).sum(1)
    same = (peers & (distance.abs() <= tolerance)).sum(1)
    return less + (same - 1) / 2
