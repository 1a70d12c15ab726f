"""Terms that are added to the policy loss: each is one number a token, weighted, and logged under its own name."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from torch import Tensor

from mllmrec.rl.kl import kl_estimate
from mllmrec.rl.losses import LossInputs, bounded_exp, log_ratio
from mllmrec.rl.parts import REFERENCE, Part


class Regularizer(Part):
    """A per-token term to minimise beside the policy loss. ``name`` is its name in the log."""

    name: str = "regularizer"
    whole_groups: ClassVar[bool] = False  # whether micro-batches must not cut groups

    @abstractmethod
    def weight(self, step: int) -> float:
        """What multiplies the term in this step (from 0 on)."""

    @abstractmethod
    def __call__(self, inputs: LossInputs) -> Tensor:
        """(r, T) the term, without its weight; its mean over tokens is logged."""


class KlToReference(Regularizer):
    """beta times the KL of the policy to the reference, estimated as ``estimator`` says (see `kl_estimate`).

    With ``ratio`` each token's estimate is multiplied by its ratio, gradient included, which corrects it for tokens that an
    older policy drew (DeepSeek-V3.2, arXiv 2512.02556; TRL ``use_bias_correction_kl``).
    """

    name = "kl"
    needs = frozenset({REFERENCE})

    def __init__(self, beta: float, estimator: str = "k3", ratio: bool = False) -> None:
        self.beta, self.estimator, self.ratio = beta, estimator, ratio

    def weight(self, step: int) -> float:
        """beta."""
        return self.beta

    def __call__(self, inputs: LossInputs) -> Tensor:
        """(r, T)."""
        assert inputs.reference is not None
        terms = kl_estimate(inputs.logprobs, inputs.reference, self.estimator)
        return terms * bounded_exp(log_ratio(inputs)) if self.ratio else terms


class EntropyBonus(Regularizer):
    """Minus the policy's entropy at each token, so that a positive coefficient rewards it.

    The value is exact. `LossInputs.entropy` has no graph, so the gradient is estimated from the token that was drawn: with
    the entropy H, ``-grad H`` is the expectation of ``(log pi + H) grad log pi``. It is exact in expectation, and where
    rows are all answers with their probabilities. A ratio corrects it for tokens that an older policy drew.
    """

    name = "minus_entropy"

    def __init__(self, coefficient: float = 1e-3) -> None:
        self.coefficient = coefficient

    def weight(self, step: int) -> float:
        """The coefficient."""
        return self.coefficient

    def __call__(self, inputs: LossInputs) -> Tensor:
        """(r, T)."""
        slope = bounded_exp(log_ratio(inputs)) * (inputs.logprobs + inputs.entropy)
        return slope.detach() * (inputs.logprobs - inputs.logprobs.detach()) - inputs.entropy
