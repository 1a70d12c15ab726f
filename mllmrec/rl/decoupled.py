"""GDPO (Liu et al. 2026, arXiv 2601.05242): each part of a reward is standardised before the parts are added up."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from mllmrec.rl.advantages import Advantage, group_relative
from mllmrec.rl.batch import RolloutBatch
from mllmrec.rl.groups import Groups


class Decoupled(Advantage):
    """GDPO: the parts' group-relative advantages, weighted and added, over their deviation in the whole step.

    With the sum of the parts as its reward, GRPO hides a small dense part behind a large rare one. Here every part that
    differs within a group speaks with its own weight. ``weights`` names parts of the reward or of shapers; the reward's
    total is not read. Both deviations have ``epsilon`` added (TRL ``multi_objective_aggregation=normalize_then_sum``).
    """

    needs_parts = True

    def __init__(self, weights: Mapping[str, float], epsilon: float = 1e-4) -> None:
        if not weights:
            raise ValueError("advantage.weights is empty: name parts of the reward, as in {hit: 1.0}")
        self.weights, self.epsilon = {str(name): float(one) for name, one in weights.items()}, epsilon

    def __call__(self, batch: RolloutBatch) -> Tensor:
        """(R,); zeros for groups in which no part differs.

        Raises:
            ValueError: nothing has paid a part that the weights name.
        """
        missing = [name for name in self.weights if name not in batch.parts]
        if missing:
            raise ValueError(
                f"advantage.weights.{missing[0]}: the reward has no such part, but {', '.join(batch.parts) or 'none'}"
            )
        table = torch.stack([batch.parts[name] for name in self.weights], 1)
        return decoupled(table, table.new_tensor(list(self.weights.values())), batch.groups, self.epsilon)


def decoupled(parts: Tensor, weights: Tensor, groups: Groups, epsilon: float = 1e-4) -> Tensor:
    """(R, K) parts, (K,) weights → (R,); see `Decoupled`."""
    each = torch.stack([group_relative(part, groups, epsilon=epsilon) for part in parts.unbind(1)], 1)
    added = each @ weights
    # Each group's mean is zero, and so is that of the step, which therefore need not be subtracted.
    everyone = Groups(torch.zeros_like(groups.group_of), groups.weights)
    return added / (everyone.rows(everyone.std(added)) + epsilon)
