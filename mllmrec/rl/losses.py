"""Policy losses per token, and ways to aggregate tokens; the two can be chosen independently.

To add a loss: one class here or in a package of your own, and one file in ``conf/loss/``.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from mllmrec.rl.parts import Part

OF_THE_STEP = ("token_mean", "sequence_mean", "constant", "sequence_sum")  # however the step is cut
AGGREGATIONS = (*OF_THE_STEP, "micro_batch_mean")
# Nats. Logarithms of ratios count as at most this, either way, so that ratios and their gradients stay finite.
FARTHEST = 20.0


@dataclass(frozen=True)
class LossInputs:
    """What losses and regularizers see of one micro-batch of r completions."""

    logprobs: Tensor  # (r, T) of the policy, with a graph
    old: Tensor  # (r, T) of whoever drew the completions
    advantages: Tensor  # (r, 1), or (r, T) if tokens differ
    mask: Tensor  # (r, T) bool: the tokens that count
    entropy: Tensor  # (r, T) nats, without a graph
    step: int = 0
    rewards: Tensor | None = None  # (r,)
    group_of: Tensor | None = None  # (r,)
    weights: Tensor | None = None  # (r,) how often each completion counts; None: once
    segments: Tensor | None = None  # (r, T), see `RolloutBatch`
    reference: Tensor | None = None  # (r, T), if a part needs it
    teacher: Tensor | None = None  # (r, T), if a part needs it
    foreign: Tensor | None = (
        None  # (r, T) bool: tokens that the policy did not draw, so that ``old`` is not theirs
    )


@dataclass(frozen=True)
class LossOutputs:
    """(r, T) terms to minimise, and (r, T) numbers whose mean over tokens is logged by name."""

    terms: Tensor
    metrics: Mapping[str, Tensor] = field(default_factory=dict)


class PolicyLoss(Part):
    """A per-token policy loss to minimise."""

    accepts: ClassVar[frozenset[str]] = frozenset(
        {"sequence"}
    )  # what of an advantage may vary, see `Advantage.varies`
    whole_groups: ClassVar[bool] = False  # whether micro-batches must not cut groups
    on_policy_only: ClassVar[bool] = False  # whether it does not read ``old``
    takes_foreign: ClassVar[bool] = False  # whether it reads ``foreign``

    @abstractmethod
    def __call__(self, inputs: LossInputs) -> LossOutputs:
        """The terms of r completions."""


class ClippedRatio(PolicyLoss):
    """PPO's clipped objective: ``-min(rho A, clip(rho, 1 - low, 1 + high) A)`` (GRPO, DeepSeekMath eq. 3).

    ``level="token"`` uses each token's own rho; ``"sequence"`` uses the length-normalised ratio of the whole
    completion for all its tokens (GSPO, Zheng et al. 2025, eq. 7, in its token-gradient form). ``delta`` caps the unclipped
    ratio as well, as in ``min(rho, delta) A``: tokens that became much more likely although A < 0 have no gradient then
    (two-sided clipping of INTELLECT-2, arXiv 2505.07291). None is no such cap.
    """

    accepts = frozenset({"sequence", "segment", "token"})

    def __init__(
        self,
        epsilon_low: float = 0.2,
        epsilon_high: float = 0.2,
        level: str = "token",
        delta: float | None = None,
    ) -> None:
        if level not in ("token", "sequence"):
            raise ValueError(f"importance level {level!r} is none of token, sequence")
        if delta is not None and delta <= 1 + epsilon_high:
            raise ValueError(f"delta={delta}: must exceed 1 + epsilon_high = {1 + epsilon_high}, or be null")
        self.low, self.high, self.level, self.delta = epsilon_low, epsilon_high, level, delta

    def __call__(self, inputs: LossInputs) -> LossOutputs:
        """The terms, and the shares of tokens whose ratio the clip held on either side."""
        logprobs, mask, weight = inputs.logprobs, inputs.mask, inputs.advantages
        distance = log_ratio(inputs)
        if self.level == "sequence":
            distance = mean_of_tokens(distance, mask).detach() + logprobs - logprobs.detach()
        ratio = bounded_exp(distance)
        free, held = ratio, ratio.clamp(1 - self.low, 1 + self.high)
        metrics = {
            "clip_ratio/low_mean": mask & (ratio < 1 - self.low) & (weight < 0),
            "clip_ratio/high_mean": mask & (ratio > 1 + self.high) & (weight > 0),
        }
        if self.delta is not None:
            free = ratio.clamp(max=self.delta)
            metrics["clip_ratio/delta_mean"] = mask & (ratio > self.delta) & (weight < 0)
        return LossOutputs(-torch.minimum(free * weight, held * weight), metrics)


def log_ratio(inputs: LossInputs) -> Tensor:
    """(r, T) nats by which each token became more likely since it was drawn; zero outside the mask."""
    return torch.where(inputs.mask, inputs.logprobs - inputs.old, 0.0)


def bounded_exp(distance: Tensor) -> Tensor:
    """exp of (r, T) nats; beyond `FARTHEST` nats it stays the same and has no gradient."""
    return distance.clamp(-FARTHEST, FARTHEST).exp()


def mean_of_tokens(values: Tensor, mask: Tensor) -> Tensor:
    """(r, T) values that are zero outside the mask → (r, 1) the mean over each row's tokens; zero for a row without."""
    return values.sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp_min(1)


def aggregate(
    terms: Tensor,
    mask: Tensor,
    how: str,
    *,
    tokens: float,
    sequences: float,
    max_length: int,
    weights: Tensor | None = None,
    parts: int = 1,
) -> Tensor:
    """Aggregate the (R, T) token terms of one micro-batch into its share of the step's loss.

    The counts cover the *whole step*, so the shares of all micro-batches add up to the same loss however the step
    is split. Only ``micro_batch_mean`` depends on it.

    Args:
        terms: (R, T).
        mask: (R, T) bool, the tokens that count.
        how: ``token_mean`` sum / tokens (DAPO); ``sequence_mean`` mean over each sequence's tokens, then over
            sequences (GRPO as published); ``constant`` sum / (sequences * max_length) (Dr. GRPO); ``sequence_sum``
            sum / sequences (LUSPO; verl's ``seq-mean-token-sum``); ``micro_batch_mean`` mean over the micro-batch's own
            tokens, then over micro-batches (TRL's ``bnpo``).
        tokens: counted tokens in the whole step.
        sequences: sequences in the whole step.
        max_length: the longest possible completion, for ``constant``; the same in every step.
        weights: (R,) how often each sequence counts; ``tokens`` and ``sequences`` are then sums of weights.
        parts: micro-batches in the whole step, for ``micro_batch_mean``.

    Raises:
        ValueError: unknown ``how``.
        ZeroDivisionError: nothing counts in the whole step.
    """
    masked = torch.where(mask, terms, 0.0)
    if weights is not None:
        masked = masked * weights[:, None]
    if how == "token_mean":
        return masked.sum() / tokens
    if how == "sequence_mean":
        return (masked.sum(1) / mask.sum(1).clamp_min(1)).sum() / sequences
    if how == "constant":
        return masked.sum() / (sequences * max_length)
    if how == "sequence_sum":
        return masked.sum() / sequences
    if how == "micro_batch_mean":
        own = mask.sum() if weights is None else (mask * weights[:, None]).sum()
        return masked.sum() / (own * parts) if own > 0 else masked.sum()
    raise ValueError(f"aggregation {how!r} is none of {', '.join(AGGREGATIONS)}")
