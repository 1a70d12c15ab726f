"""Group-relative advantages: how much better each completion is than the others of its group.

To add an estimator: one class here or in a package of your own, and one file in ``conf/advantage/``.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, Literal

import torch
from torch import Tensor

from mllmrec.rl.batch import RolloutBatch
from mllmrec.rl.groups import Groups
from mllmrec.rl.parts import Part

Varies = Literal["sequence", "segment", "token"]


class Advantage(Part):
    """Turns the rewards of a batch into advantages."""

    varies: ClassVar[Varies] = "sequence"  # what may differ within a completion; the loss must accept it
    needs_places: ClassVar[bool] = False  # whether it reads a reward for each place of a ranked list
    needs_parts: ClassVar[bool] = False  # whether it reads the parts of a reward that its ``weights`` name
    makes_up: ClassVar[bool] = False  # whether it is larger where few groups differ in their rewards

    @abstractmethod
    def __call__(self, batch: RolloutBatch) -> Tensor:
        """The advantages of R completions: (R,), or (R, T) if tokens differ. May lie on any device."""


class GroupRelative(Advantage):
    """``(r - mean) / (std + epsilon)`` within each group (GRPO, DeepSeekMath eq. 3; epsilon as TRL's).

    ``scale="group"`` divides by the group's standard deviation (divisor G - 1), ``"batch"`` by the standard deviation of
    all R rewards (TRL ``scale_rewards=batch``), ``"none"`` by nothing (Dr. GRPO). A group without variance gets zeros.
    Unless ``unbiased``, standard deviations have the divisor G in place of G - 1.
    """

    def __init__(self, scale: str = "group", epsilon: float = 1e-4, unbiased: bool = True) -> None:
        if scale not in ("group", "batch", "none"):
            raise ValueError(f"advantage scale {scale!r} is none of group, batch, none")
        self.scale, self.epsilon, self.unbiased = scale, epsilon, unbiased

    def __call__(self, batch: RolloutBatch) -> Tensor:
        """(R,)."""
        return group_relative(batch.judged(), batch.groups, self.scale, self.epsilon, self.unbiased)


class LeaveOneOut(Advantage):
    """RLOO: ``r - mean of the others``, which is ``G / (G - 1) * (r - mean)`` (Ahmadian et al. 2024)."""

    def __call__(self, batch: RolloutBatch) -> Tensor:
        """(R,); zeros for groups of one. With weights it is r - mean, the limit of many draws."""
        return leave_one_out(batch.judged(), batch.groups)


def group_relative(
    rewards: Tensor, groups: Groups, scale: str = "group", epsilon: float = 1e-4, unbiased: bool = True
) -> Tensor:
    """(R,) rewards → (R,); see `GroupRelative`. Also (R, K) → (R, K), each column by itself."""
    centred = groups.centred(rewards)
    if scale == "none":
        return centred
    if scale == "group":
        return centred / (groups.rows(groups.std(rewards, unbiased)) + epsilon)
    everyone = Groups(torch.zeros_like(groups.group_of), groups.weights)
    return centred / (everyone.rows(everyone.std(rewards, unbiased)) + epsilon)


def leave_one_out(rewards: Tensor, groups: Groups) -> Tensor:
    """(R,) rewards → (R,); see `LeaveOneOut`."""
    centred = groups.centred(rewards)
    if groups.weights is not None:
        return centred
    sizes = groups.rows(groups.sizes).to(rewards.dtype)
    return torch.where(sizes > 1, centred * (sizes / (sizes - 1).clamp_min(1)), 0.0)
