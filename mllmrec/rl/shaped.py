"""A policy loss for rows of which somebody else wrote some tokens."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch

from mllmrec.rl.losses import ClippedRatio, LossInputs, LossOutputs


class Shaped(ClippedRatio):
    """PPO's clip for the policy's own tokens, and ``-A f(pi)`` with ``f(p) = p / (p + constant)`` for foreign ones.

    Nothing is known of the probability with which somebody else wrote a token, so it is taken as 1 and the ratio is pi, the
    policy's probability. f keeps tokens that the policy finds unlikely in the gradient: its slope in log pi is
    ``constant p / (p + constant)²``, against p without f.

    With ``wrong="mask"`` foreign tokens with A <= 0 are not learnt, so that what the policy finds unlikely is not pushed
    further down; ``"shape"`` treats them as all others.
    """

    takes_foreign = True

    def __init__(
        self,
        epsilon_low: float = 0.2,
        epsilon_high: float = 0.2,
        level: str = "token",
        constant: float = 0.1,
        wrong: Literal["mask", "shape"] = "mask",
    ) -> None:
        if constant <= 0:
            raise ValueError(f"constant={constant}: must be above 0")
        if wrong not in ("mask", "shape"):
            raise ValueError(f"wrong={wrong!r} is none of mask, shape")
        super().__init__(epsilon_low, epsilon_high, level)
        self.constant, self.wrong = constant, wrong

    def __call__(self, inputs: LossInputs) -> LossOutputs:
        """The terms, the shares of clipped and of foreign tokens, and f of the foreign ones, 0 for others."""
        foreign = torch.zeros_like(inputs.mask) if inputs.foreign is None else inputs.foreign & inputs.mask
        # Foreign tokens take no part in the clip, nor in the ratio of a whole completion.
        old = torch.where(foreign, inputs.logprobs.detach(), inputs.old)
        own = super().__call__(replace(inputs, old=old, mask=inputs.mask & ~foreign))
        probability = torch.where(foreign, inputs.logprobs, 0.0).exp()
        shaped = probability / (probability + self.constant)
        weight = inputs.advantages if self.wrong == "shape" else inputs.advantages.clamp_min(0)
        return LossOutputs(
            torch.where(foreign, -weight * shaped, own.terms),
            {
                **own.metrics,
                "foreign/share_mean": foreign,
                "foreign/shaped_mean": torch.where(foreign, shaped.detach(), 0.0),
            },
        )
