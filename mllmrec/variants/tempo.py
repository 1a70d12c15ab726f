"""TEMPO (Tran et al. 2025, arXiv 2509.18314): the completions of a group are a tree, whose branches tell which token made the difference."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from mllmrec.rl.advantages import Advantage
from mllmrec.rl.batch import RolloutBatch
from mllmrec.rl.groups import Groups


class PrefixTree(Advantage):
    """``(r - mean + V(after the token) - V(before it)) / (std + epsilon)`` of each token.

    V of a prefix is the mean reward of the group's completions that begin with it. So a token at which completions part
    gets credit for the change; at others this is GRPO. Answers of item ids or titles share long prefixes. Without
    ``scale`` nothing divides.
    """

    varies = "token"

    def __init__(self, scale: bool = True, epsilon: float = 1e-6) -> None:
        self.scale, self.epsilon = scale, epsilon

    def __call__(self, batch: RolloutBatch) -> Tensor:
        """(R, T); zeros on tokens that the loss does not cover."""
        rewards, groups = batch.judged(), batch.groups
        centred = groups.centred(rewards)
        ids = batch.completions.ids.cpu().masked_fill(~batch.completions.mask.cpu(), -1)
        given = centred[:, None] + value_changes(centred, ids, groups)
        if self.scale:
            given = given / (groups.rows(groups.std(rewards)) + self.epsilon)[:, None]
        return torch.where(batch.learnt.cpu(), given, 0.0)


def value_changes(rewards: Tensor, ids: Tensor, groups: Groups) -> Tensor:
    """(R,) rewards, (R, T) tokens, -1 after the end → (R, T): by how much each token changes V of the prefix."""
    changes = torch.zeros(ids.shape, dtype=rewards.dtype)
    before = groups.rows(groups.mean(rewards))
    for place, prefix_of in enumerate(_prefixes(ids, groups.group_of)):
        same = Groups(prefix_of, groups.weights)
        after = same.rows(same.mean(rewards))
        changes[:, place], before = after - before, after
    return changes


def _prefixes(ids: Tensor, group_of: Tensor) -> Iterator[Tensor]:
    """For each place, (R,) numbers: rows of a group have the same one if they agree up to and with this place."""
    prefix_of = group_of
    for column in ids.unbind(1):
        prefix_of = torch.stack([prefix_of, column]).unique(dim=1, return_inverse=True)[1]
        yield prefix_of
