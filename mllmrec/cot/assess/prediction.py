"""Prediction consistency: how reasoning changes the answers of a policy that reads it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch

from mllmrec.errors import UserError


def lift(
    with_cot: torch.Tensor | np.ndarray,
    without: torch.Tensor | np.ndarray,
    targets: torch.Tensor | np.ndarray,
) -> torch.Tensor:
    """How much likelier the true answer among the candidates becomes if the reasoning is in the prompt.

    ``log p(t | x, cot) − log p(t | x)``, both renormalised over the C candidates, in nats. Adding a constant to all
    log-probabilities of a row (with or without reasoning) changes nothing.

    Args:
        with_cot: (S, C) log p(c | x, cot); −inf for an empty place.
        without: (S, C) log p(c | x), with the same candidates in the same columns.
        targets: (S,) the target's column.

    Returns:
        (S,) float64.

    Raises:
        ValueError: the shapes differ, a number is nan or +inf, or a target is not a candidate or is impossible.
    """
    after, before = (torch.as_tensor(scores).to(torch.float64) for scores in (with_cot, without))
    columns = torch.as_tensor(targets)
    if after.ndim != 2 or before.shape != after.shape or columns.shape != after.shape[:1]:
        raise ValueError(
            f"shapes {after.shape}, {before.shape} and {columns.shape} are not (S, C) twice and (S,)"
        )
    if ((columns < 0) | (columns >= after.shape[1])).any():
        raise ValueError(f"targets must be columns from 0 to {after.shape[1] - 1}")
    said = [scores.gather(1, columns[:, None].long())[:, 0] for scores in (after, before)]
    for scores, true in zip((after, before), said, strict=True):
        if not (scores < math.inf).all() or not true.isfinite().all():
            raise ValueError("log-probabilities must be below +inf, none nan, and finite at the target")
    return (said[0] - after.logsumexp(1)) - (said[1] - before.logsumexp(1))


def lift_score(lifts: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
    """``sigmoid(lift / scale)``: 1/2 for reasoning that changes nothing, rising with the lift; (S,) in [0, 1].

    With a scale of one nat it is p' / (p' + p): the true answer has probability p' with reasoning and p without.

    Raises:
        UserError: ``scale`` is not a positive number.
    """
    if not 0 < scale < math.inf:
        raise UserError(f"scale={scale}: the lift is divided by it; give a positive number of nats")
    return torch.sigmoid(lifts / scale)


def modal_share(answers: Sequence[str | None]) -> float:
    """Share of k independently sampled answers that equal the most frequent one, from 1/k to 1.

    An unreadable answer (None) agrees with no other. The share is 0 if no answer is readable.

    Raises:
        ValueError: there are no answers.
    """
    _refuse_none_at_all(answers)
    counts = Counter(answer for answer in answers if answer is not None)
    return max(counts.values(), default=0) / len(answers)


def target_share(answers: Sequence[str | None], target: str) -> float:
    """Share of k independently sampled answers that name the target.

    Raises:
        ValueError: there are no answers.
    """
    _refuse_none_at_all(answers)
    return sum(answer == target for answer in answers) / len(answers)


def _refuse_none_at_all(answers: Sequence[str | None]) -> None:
    if not answers:
        raise ValueError("no answers were sampled: their agreement is unknown, not zero")
