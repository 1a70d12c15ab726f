"""Stratified GRPO (Zhu et al. 2025, arXiv 2510.06214): completions are compared with those of the same structure, and a little with the whole group."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from mllmrec.rl.advantages import Advantage, group_relative
from mllmrec.rl.batch import RolloutBatch
from mllmrec.rl.groups import Groups

By = Literal["items", "reasoning", "source"]


class Stratified(Advantage):
    """``alpha * SAN + (1 - alpha) * GN``: advantages standardised within a stratum of the group, and within the group.

    Strata are the rows of a group that name equally many items (``by="items"``), that reason or do not
    (``"reasoning"``), or that have the same writer (``"source"``: the policy, a hint, a teacher). A row alone in its stratum
    has a SAN of 0. The authors divide by searches, which there are none of here; their ``alpha`` is not known, and 0.5 is a
    guess. A stratum should not follow from the reward: where an answer without an item is wrong, ``items`` does.
    """

    def __init__(self, by: By = "items", alpha: float = 0.5, epsilon: float = 1e-6) -> None:
        if by not in ("items", "reasoning", "source"):
            raise ValueError(f"advantage by={by!r} is none of items, reasoning, source")
        if not 0 <= alpha <= 1:
            raise ValueError(f"advantage alpha={alpha}: must be between 0 and 1")
        self.by, self.alpha, self.epsilon = by, alpha, epsilon

    def __call__(self, batch: RolloutBatch) -> Tensor:
        """(R,); zeros for groups of equal rewards."""
        strata = strata_of(batch, self.by)
        return stratified(batch.judged(), batch.groups, strata, self.alpha, self.epsilon)


def strata_of(batch: RolloutBatch, by: By) -> Tensor:
    """(R,) the stratum of each row, a number; see `Stratified`."""
    if by == "items":
        return torch.tensor([len(answer.items) for answer in batch.answers])
    if by == "reasoning":
        return torch.tensor([int(bool(answer.reasoning)) for answer in batch.answers])
    names = sorted(set(batch.sources))
    return torch.tensor([names.index(source) for source in batch.sources] or [0] * len(batch))


def stratified(
    rewards: Tensor, groups: Groups, strata: Tensor, alpha: float, epsilon: float = 1e-6
) -> Tensor:
    """(R,) rewards and strata → (R,); see `Stratified`."""
    stratum_of = torch.stack([groups.group_of, strata]).unique(dim=1, return_inverse=True)[1]
    within = group_relative(rewards, Groups(stratum_of, groups.weights), epsilon=epsilon)
    return alpha * within + (1 - alpha) * group_relative(rewards, groups, epsilon=epsilon)
