"""Policy losses through a ratio that bends instead of breaking off: gradients shrink as a token leaves the old policy.

For what is common to all losses, see `mllmrec.rl.losses`.
"""

from __future__ import annotations

import torch

from mllmrec.rl.losses import LossInputs, LossOutputs, PolicyLoss, bounded_exp, log_ratio, mean_of_tokens


class Sapo(PolicyLoss):
    """``-f(rho) A`` with the gate ``f(rho) = 4 / tau * sigmoid(tau (rho - 1))`` (SAPO, arXiv 2511.20347).

    The gradient is the ratio's where rho = 1 and fades on both sides of it, faster with a larger tau. tau is
    ``tau_positive`` where A > 0, else ``tau_negative``. The paper averages sequences.
    """

    accepts = frozenset({"sequence", "segment", "token"})

    def __init__(self, tau_positive: float = 1.0, tau_negative: float = 1.05) -> None:
        if min(tau_positive, tau_negative) <= 0:
            raise ValueError(
                f"tau_positive={tau_positive}, tau_negative={tau_negative}: both must be positive"
            )
        self.positive, self.negative = tau_positive, tau_negative

    def __call__(self, inputs: LossInputs) -> LossOutputs:
        """The terms."""
        tau = torch.where(inputs.advantages > 0, self.positive, self.negative)
        gate = torch.sigmoid(tau * (bounded_exp(log_ratio(inputs)) - 1)) * 4 / tau
        return LossOutputs(-gate * inputs.advantages)


class Gmpo(PolicyLoss):
    """``-s A`` with the geometric mean ``s`` of a completion's clipped token ratios (GMPO, arXiv 2507.20673).

    The clip is on log rho, between -``epsilon_low`` and ``epsilon_high`` nats, and holds each token only on the side to
    which A pushes it. In token-gradient form: every token has the value of s and the gradient of its own factor, so that
    the mean over a sequence's tokens is s with its whole gradient. The bounds of 0.4 are from memory of the paper.
    """

    accepts = frozenset({"sequence"})

    def __init__(self, epsilon_low: float = 0.4, epsilon_high: float = 0.4) -> None:
        self.low, self.high = epsilon_low, epsilon_high

    def __call__(self, inputs: LossInputs) -> LossOutputs:
        """The terms, and the shares of tokens whose ratio the clip held on either side."""
        distance, mask, weight = log_ratio(inputs), inputs.mask, inputs.advantages
        held = distance.clamp(-self.low, self.high)
        factor = torch.where(weight >= 0, torch.minimum(distance, held), torch.maximum(distance, held))
        mean = mean_of_tokens(factor, mask).detach()
        terms = -bounded_exp(mean + factor - factor.detach()) * weight
        return LossOutputs(
            terms,
            {
                "clip_ratio/low_mean": mask & (distance < -self.low) & (weight < 0),
                "clip_ratio/high_mean": mask & (distance > self.high) & (weight > 0),
            },
        )
