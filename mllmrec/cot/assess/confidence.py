"""Combines named scores into one confidence, and decides from confidences what is kept."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np

from mllmrec.cot.mixing import known_confidences, most_confident, rounded_share
from mllmrec.errors import UserError

# All weigh the same: no measurement says that one score deserves more.
WEIGHTS: Mapping[str, float] = MappingProxyType(
    {"draft_agreement": 1.0, "grounding": 1.0, "lift": 1.0, "agreement": 1.0}
)
FLOORS: Mapping[str, float] = MappingProxyType(
    {"steps": 1.0, "length": 1.0, "language": 0.8, "no_ids": 1.0, "no_markup": 1.0, "own_words": 0.5}
)
_NO_FLOORS: Mapping[str, float] = MappingProxyType({})


def vetoes(scores: Mapping[str, float | None], floors: Mapping[str, float]) -> tuple[str, ...]:
    """Names of the scores below their floor, in the floors' order. An unknown score vetoes nothing.

    Raises:
        UserError: a floor lies outside 0 to 1, or ``scores`` does not have its name.
        ValueError: a score is nan or outside 0 to 1.
    """
    for name, floor in floors.items():
        if not 0 <= floor <= 1:
            raise UserError(f"floor of {name}={floor}: must lie between 0 and 1")
    known = _known(scores, floors)
    return tuple(name for name, floor in floors.items() if name in known and known[name] < floor)


def confidence(
    scores: Mapping[str, float | None],
    weights: Mapping[str, float],
    floors: Mapping[str, float] = _NO_FLOORS,
) -> float | None:
    """The weighted arithmetic mean of the known scores: ``Σ w s / Σ w``.

    With a geometric mean any single 0 would decide, even that of a noisy score. Here only a floor decides alone, and
    the veto is reported under its name.

    Args:
        scores: each in [0, 1]; None if unknown. The weight of an unknown score is spread over the others in proportion.
        weights: the weights of the scores that count; scores without a weight only face their floors.
        floors: the lowest allowed values of the scores that may veto.

    Returns:
        A value in [0, 1]; None if a floor vetoes or no score with a weight is known.

    Raises:
        UserError: a weight is negative or not a number, no weight is positive, ``scores`` does not have a name, or a
            floor lies outside 0 to 1.
        ValueError: a score is nan or outside 0 to 1.
    """
    if not all(0 <= weight < math.inf for weight in weights.values()) or not any(weights.values()):
        raise UserError(f"weights {dict(weights)}: give numbers from 0 up, at least one above 0")
    known = _known(scores, weights)
    if vetoes(scores, floors):
        return None
    total = math.fsum(weights[name] for name in known)
    if not total:
        return None
    return math.fsum(weights[name] * score for name, score in known.items()) / total


def _known(scores: Mapping[str, float | None], names: Mapping[str, float]) -> dict[str, float]:
    """The scores of ``names`` that are known."""
    absent = [name for name in names if name not in scores]
    if absent:
        raise UserError(f"no score {', '.join(absent)}: there are {', '.join(scores)}; one not known is None")
    known = {name: score for name in names if (score := scores[name]) is not None}
    wrong = {name: score for name, score in known.items() if not 0 <= score <= 1}
    if wrong:
        raise ValueError(f"scores must lie between 0 and 1: {wrong}")
    return known


def keep(
    sample_ids: Sequence[str] | np.ndarray,
    confidences: Mapping[str, float | None],
    seed: int,
    *,
    threshold: float | None = None,
    top_share: float | None = None,
) -> np.ndarray:
    """Which samples keep their reasoning: (S,) bool.

    Args:
        sample_ids: (S,) unique ids.
        confidences: by sample id, in [0, 1]. A sample with None or without an entry is never kept.
        seed: decides the ranks that order equal confidences, the same ranks as in `select_cot`.
        threshold: keep samples with at least this confidence.
        top_share: keep the ``round(top_share * S)`` most confident samples, or as many as have a confidence.

    Raises:
        UserError: not exactly one of the two is given, or it lies outside 0 to 1.
        ValueError: an id is repeated, or a confidence is nan or outside 0 to 1.
    """
    if (threshold is None) == (top_share is None):
        raise UserError("give a threshold or a top_share, one of the two")
    known = known_confidences(sample_ids, confidences)
    kept = np.zeros(len(sample_ids), dtype=bool)
    if threshold is not None:
        if not 0 <= threshold <= 1:
            raise UserError(f"threshold={threshold}: must lie between 0 and 1")
        kept[[position for position, _, value in known if value >= threshold]] = True
        return kept
    if top_share is None or not 0 <= top_share <= 1:
        raise UserError(f"top_share={top_share}: must lie between 0 and 1")
    kept[most_confident(known, seed)[: rounded_share(top_share, len(sample_ids))]] = True
    return kept
