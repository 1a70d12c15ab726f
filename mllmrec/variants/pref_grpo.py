"""Pref-GRPO (Wang et al. 2025, arXiv 2508.20751): an answer earns the share of its group's other answers that it beats."""

from __future__ import annotations

import torch
from torch import Tensor

from mllmrec.rewards.base import Rewards, Shaper
from mllmrec.rl.batch import RolloutBatch


class WinRate(Shaper):
    """Replaces each reward by ``(wins + ties / 2) / (G - 1)``; a row that is alone in its group gets 1/2.

    The authors ask a judge which of two answers is better. Here the answer with the higher reward wins, so that small
    differences count as much as large ones.

    Args:
        tie: rewards that differ by at most this are equal.
    """

    def __init__(self, tie: float = 1e-6) -> None:
        self.tie = tie

    def bounds(self, low: float, high: float) -> tuple[float, float]:
        """A share."""
        return 0.0, 1.0

    def __call__(self, batch: RolloutBatch) -> Rewards:
        """See the class."""
        total = batch.judged()
        distance = total[:, None] - total
        points = (distance > self.tie).to(total.dtype) + (distance.abs() <= self.tie).to(total.dtype) / 2
        return Rewards(win_rates(points, batch.groups.group_of))


def win_rates(points: Tensor, group_of: Tensor) -> Tensor:
    """The points of each row against the others of its group, over their number.

    Args:
        points: (R, R) what the row earns against the column: 1 for a win, 1/2 for a tie, 0 for a defeat.
        group_of: (R,) the group of each row.

    Returns:
        (R,).
    """
    peers = group_of[:, None] == group_of
    peers.fill_diagonal_(False)
    others = peers.sum(1)
    earned = torch.where(peers, points, 0.0).sum(1)
    return torch.where(others > 0, earned / others.clamp_min(1), 0.5)
