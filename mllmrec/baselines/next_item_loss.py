"""Losses that compare a state with the item that came next; N states with D numbers each, I items."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from mllmrec.errors import UserError, choices

KINDS = ("cross_entropy", "bce")
_STATES_AT_ONCE = (
    128  # the products of so many states with all items fit a cache: twice as fast as all states at once
)


def cross_entropy(states: Tensor, vectors: Tensor, targets: Tensor) -> Tensor:
    """The mean over states of -log softmax(state · vectors)[target]; shapes as in `NextItemLoss`."""
    blocks = zip(states.split(_STATES_AT_ONCE), targets.split(_STATES_AT_ONCE), strict=True)
    sums = [functional.cross_entropy(part @ vectors.T, wanted, reduction="sum") for part, wanted in blocks]
    return torch.stack(sums).sum() / len(states)


@dataclass(frozen=True)
class NextItemLoss:
    """Cross-entropy over all items, or binary cross-entropy against sampled negatives.

    A positive's log-sigmoid is weighted by β = α (t (1 - 1/α) + 1/α), with α = negatives / (I - 1) and calibration t.
    This is gBCE of Petrov and Macdonald (2023, "gSASRec: reducing overconfidence in sequential recommendation trained
    with negative sampling"). t = 0 gives β = 1, the plain loss of SASRec. Negatives are uniform over the other items.

    Args:
        loss: ``cross_entropy`` or ``bce``.
        negatives: for bce, negatives sampled per positive.
        calibration: for bce, the calibration t, 0 to 1.

    Raises:
        UserError: a value is out of range.
    """

    loss: str = "cross_entropy"
    negatives: int = 1
    calibration: float = 0.0

    def __post_init__(self) -> None:
        if self.loss not in KINDS:
            raise UserError(f"method.recommender.loss={self.loss}: it is one of {choices(KINDS)}")
        if self.negatives < 1 or not 0 <= self.calibration <= 1:
            raise UserError(
                f"method.recommender: negatives={self.negatives} must be at least 1, "
                f"calibration={self.calibration} between 0 and 1"
            )

    def __call__(self, states: Tensor, vectors: Tensor, targets: Tensor) -> Tensor:
        """The mean over states.

        Args:
            states: (N, D).
            vectors: (I, D) of all items.
            targets: (N,) int64, the items that came next.
        """
        if self.loss == "cross_entropy":
            return cross_entropy(states, vectors, targets)
        others = len(vectors) - 1
        drawn = torch.randint(others, (len(states), self.negatives), device=states.device)
        drawn += drawn >= targets[:, None]
        positive = (states * functional.embedding(targets, vectors)).sum(-1)
        negative = torch.einsum("nd,nkd->nk", states, functional.embedding(drawn, vectors))
        share = self.negatives / others
        weight = share * (self.calibration * (1 - 1 / share) + 1 / share)
        losses = -weight * functional.logsigmoid(positive) - functional.logsigmoid(-negative).sum(-1)
        return losses.mean()
