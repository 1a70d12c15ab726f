"""Policy losses ``-w A log pi``: REINFORCE, and relatives whose weight w is a function of the ratio without a gradient.

No token loses its gradient to a clip. For what is common to all losses, see `mllmrec.rl.losses`.
"""

from __future__ import annotations

import math

import torch

from mllmrec.rl.losses import FARTHEST, LossInputs, LossOutputs, PolicyLoss, bounded_exp, log_ratio

LEAST_LOG_WEIGHT = math.log(1e-8)  # of a sequence, as in TRL


class Reinforce(PolicyLoss):
    """``-A log pi``: no ratio, and so right only for answers of the policy as it is now.

    In the first update of a rollout its gradient is that of `ClippedRatio`.
    """

    accepts = frozenset({"sequence", "segment", "token"})
    on_policy_only = True

    def __call__(self, inputs: LossInputs) -> LossOutputs:
        """The terms."""
        return LossOutputs(-inputs.advantages * inputs.logprobs)


class Opmd(Reinforce):
    """`Reinforce` divided by ``1 + tau`` (OPMD as in Trinity-RFT, arXiv 2505.17826).

    It is derived for answers of any policy, and so takes old ones without a ratio. tau is the weight of staying near the
    policy that drew them; ``advantage=opmd`` has one too.
    """

    on_policy_only = False

    def __init__(self, tau: float = 1.0) -> None:
        if tau < 0:
            raise ValueError(f"tau={tau}: must not be negative")
        self.tau = tau

    def __call__(self, inputs: LossInputs) -> LossOutputs:
        """The terms."""
        return LossOutputs(super().__call__(inputs).terms / (1 + self.tau))


class Cispo(PolicyLoss):
    """``-clip(rho, least, most) A log pi``, the clipped ratio without a gradient (CISPO of MiniMax-M1, arXiv 2506.13585).

    The bounds are ratios, not distances from 1. The paper sets no lower bound and does not print its upper one; 5 is
    ScaleRL's (arXiv 2510.13786).
    """

    accepts = frozenset({"sequence", "segment", "token"})

    def __init__(self, most: float = 5.0, least: float = 0.0) -> None:
        if not 0 <= least <= 1 <= most:
            raise ValueError(f"least={least}, most={most}: must be such that 0 <= least <= 1 <= most")
        self.least, self.most = least, most

    def __call__(self, inputs: LossInputs) -> LossOutputs:
        """The terms, and the shares of tokens whose ratio was held on either side, if there is a bound."""
        ratio = bounded_exp(log_ratio(inputs).detach())
        metrics = {"clip_ratio/high_mean": inputs.mask & (ratio > self.most)}
        if self.least > 0:
            metrics["clip_ratio/low_mean"] = inputs.mask & (ratio < self.least)
        weight = ratio.clamp(self.least, self.most)
        return LossOutputs(-weight * inputs.advantages * inputs.logprobs, metrics)


class Vespo(PolicyLoss):
    """``-phi(w) A log pi`` with the ratio w of the whole completion and no gradient in phi (VESPO, arXiv 2602.10693).

    ``phi(w) = e^lambda w^k e^(-lambda w)`` is 1 at w = 1 and falls to 0 on both sides far from it. w is the product over
    tokens, not their mean. (k, lambda) depends on the sign of A. phi is computed as its logarithm, with log w between
    log 1e-8 and 20.
    """

    accepts = frozenset({"sequence"})

    def __init__(
        self,
        k_positive: float = 2.0,
        lambda_positive: float = 3.0,
        k_negative: float = 3.0,
        lambda_negative: float = 2.0,
    ) -> None:
        if min(k_positive, k_negative) < 0 or min(lambda_positive, lambda_negative) <= 0:
            raise ValueError(
                f"k_positive={k_positive}, k_negative={k_negative}, lambda_positive={lambda_positive}, "
                f"lambda_negative={lambda_negative}: k must not be negative, lambda must be positive"
            )
        self.positive, self.negative = (k_positive, lambda_positive), (k_negative, lambda_negative)

    def __call__(self, inputs: LossInputs) -> LossOutputs:
        """The terms, and phi."""
        tokens = log_ratio(inputs).detach().clamp(-FARTHEST, FARTHEST)
        log_w = tokens.sum(1, keepdim=True).clamp(LEAST_LOG_WEIGHT, FARTHEST)
        gains = inputs.advantages >= 0
        k, rate = (torch.where(gains, *pair) for pair in zip(self.positive, self.negative, strict=True))
        phi = (rate + k * log_w - rate * log_w.exp()).exp()
        return LossOutputs(
            -phi * inputs.advantages * inputs.logprobs, {"phi_mean": phi.expand_as(inputs.mask)}
        )
