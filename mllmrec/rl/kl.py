"""Estimators of KL(policy || reference) from the log-probabilities of sampled tokens.

With d = log pi - log ref (Schulman, "Approximating KL divergence"): k1 = d, k2 = d²/2, k3 = exp(-d) + d - 1.
As a loss on on-policy tokens, k1 has an expected gradient of zero, k2 has the gradient of KL(pi || ref), and k3 has the
gradient of KL(ref || pi). k1+ and k3+ have the value of k1 and k3, and the gradient of k2 (verl).
"""

from __future__ import annotations

import torch
from torch import Tensor

ESTIMATORS = ("k1", "k2", "k3", "k1+", "k3+")


def kl_estimate(logprobs: Tensor, reference: Tensor, estimator: str = "k3") -> Tensor:
    """Per-token estimate, same shape as its inputs, in nats.

    Raises:
        ValueError: unknown estimator.
    """
    if estimator in ("k1+", "k3+"):
        value, slope = (kl_estimate(logprobs, reference, name) for name in (estimator[:2], "k2"))
        return value.detach() + slope - slope.detach()
    difference = logprobs - reference
    if estimator == "k1":
        return difference
    if estimator == "k2":
        return difference.square() / 2
    if estimator == "k3":
        return torch.expm1(-difference) + difference
    raise ValueError(f"KL estimator {estimator!r} is none of {', '.join(ESTIMATORS)}")
