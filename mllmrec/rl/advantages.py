"""Group-relative advantages: (B, G) rewards in, (B, G) advantages out.

To add an estimator: one class here and one file in ``conf/advantage/``.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class Advantage(Protocol):
    """Turns the rewards of B groups of G rollouts into advantages of the same shape."""

    def __call__(self, rewards: Tensor) -> Tensor:
        """(B, G) → (B, G)."""
        ...


class GroupRelative:
    """``(r - mean) / (std + epsilon)`` within each group (GRPO, DeepSeekMath eq. 3; epsilon as TRL's).

    ``scale="group"`` divides by the group's standard deviation (divisor G - 1), ``"batch"`` by that of all B * G
    rewards (TRL ``scale_rewards=batch``), ``"none"`` by nothing (Dr. GRPO). A group without variance gets zeros.
    """

    def __init__(self, scale: str = "group", epsilon: float = 1e-4) -> None:
        if scale not in ("group", "batch", "none"):
            raise ValueError(f"advantage scale {scale!r} is none of group, batch, none")
        self.scale, self.epsilon = scale, epsilon

    def __call__(self, rewards: Tensor) -> Tensor:
        """(B, G) → (B, G)."""
        centred = _centred(rewards)
        if self.scale == "none":
            return centred
        spread = _std(rewards) if self.scale == "group" else _std(rewards.reshape(1, -1))
        return centred / (spread + self.epsilon)


class LeaveOneOut:
    """RLOO: ``r - mean of the others``, which is ``G / (G - 1) * (r - mean)`` (Ahmadian et al. 2024)."""

    def __call__(self, rewards: Tensor) -> Tensor:
        """(B, G) → (B, G); zeros for groups of one."""
        group = rewards.shape[1]
        if group == 1:
            return torch.zeros_like(rewards)
        return _centred(rewards) * (group / (group - 1))


def zero_variance(rewards: Tensor, tolerance: float = 1e-6) -> Tensor:
    """(B,) bool: groups whose (B, G) raw rewards are all equal, so that they carry no signal."""
    return (rewards.max(1).values - rewards.min(1).values) <= tolerance


def _centred(rewards: Tensor) -> Tensor:
    # A mean of equal rewards may be off by rounding, which a tiny std would blow up to a signal.
    return (rewards - rewards.mean(1, keepdim=True)).masked_fill(zero_variance(rewards)[:, None], 0.0)


def _std(rewards: Tensor) -> Tensor:
    return rewards.std(1, keepdim=True) if rewards.shape[1] > 1 else torch.zeros_like(rewards[:, :1])
