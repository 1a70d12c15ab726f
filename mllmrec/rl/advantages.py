"""Group-relative advantages: (B, G) rewards in, (B, G) advantages out.

To add an estimator: one class here and one file in ``conf/advantage/``.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class Advantage(Protocol):
    """Turns the rewards of B groups of G rollouts into advantages of the same shape.

    ``weights`` (B, G) are the probabilities of the G rollouts, given where these are not draws but all possible answers.
    Means and deviations are then exact for the policy; those of draws approach them as G grows.
    """

    def __call__(self, rewards: Tensor, weights: Tensor | None = None) -> Tensor:
        """(B, G), (B, G) → (B, G)."""
        ...


class GroupRelative:
    """``(r - mean) / (std + epsilon)`` within each group (GRPO, DeepSeekMath eq. 3; epsilon as TRL's).

    ``scale="group"`` divides by the group's standard deviation (divisor G - 1), ``"batch"`` by the standard deviation of
    all B * G rewards (TRL ``scale_rewards=batch``), ``"none"`` by nothing (Dr. GRPO). A group without variance gets zeros.
    """

    def __init__(self, scale: str = "group", epsilon: float = 1e-4) -> None:
        if scale not in ("group", "batch", "none"):
            raise ValueError(f"advantage scale {scale!r} is none of group, batch, none")
        self.scale, self.epsilon = scale, epsilon

    def __call__(self, rewards: Tensor, weights: Tensor | None = None) -> Tensor:
        """(B, G), (B, G) → (B, G)."""
        centred = _centred(rewards, weights)
        if self.scale == "none":
            return centred
        if self.scale == "group":
            spread = weighted_std(rewards, weights)
        else:
            flat = None if weights is None else weights.reshape(1, -1)
            spread = weighted_std(rewards.reshape(1, -1), flat)
        return centred / (spread + self.epsilon)


class LeaveOneOut:
    """RLOO: ``r - mean of the others``, which is ``G / (G - 1) * (r - mean)`` (Ahmadian et al. 2024)."""

    def __call__(self, rewards: Tensor, weights: Tensor | None = None) -> Tensor:
        """(B, G), (B, G) → (B, G); zeros for groups of one. With weights it is r - mean, the limit of many draws."""
        group = rewards.shape[1]
        if group == 1:
            return torch.zeros_like(rewards)
        return _centred(rewards, weights) * (1.0 if weights is not None else group / (group - 1))


def zero_variance(rewards: Tensor, tolerance: float = 1e-6) -> Tensor:
    """(B, G) rewards → (B,) bool: groups in which all raw rewards are equal, so that they carry no signal."""
    return (rewards.max(1).values - rewards.min(1).values) <= tolerance


def weighted_mean(values: Tensor, weights: Tensor | None) -> Tensor:
    """(B, G) → (B, 1); the plain mean without weights."""
    if weights is None:
        return values.mean(1, keepdim=True)
    return (values * weights).sum(1, keepdim=True) / weights.sum(1, keepdim=True)


def weighted_std(values: Tensor, weights: Tensor | None) -> Tensor:
    """(B, G) → (B, 1): with divisor G - 1 over draws; exact under the distribution of ``weights``, if given."""
    if weights is not None:
        return weighted_mean((values - weighted_mean(values, weights)).square(), weights).sqrt()
    return values.std(1, keepdim=True) if values.shape[1] > 1 else torch.zeros_like(values[:, :1])


def _centred(rewards: Tensor, weights: Tensor | None) -> Tensor:
    # Rounding may shift the mean of equal rewards, and dividing by a tiny std would turn the shift into a signal.
    return (rewards - weighted_mean(rewards, weights)).masked_fill(zero_variance(rewards)[:, None], 0.0)
