"""Measures whether confidence means anything: how many of the texts that it keeps help."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Helping:
    """How many of n samples help."""

    samples: int
    share: float | None  # share of the n that help; for n = 0 this and the fields below are None
    low: float | None  # 95 % Wilson interval of the share
    high: float | None
    mean_lift: float | None  # in nats


@dataclass(frozen=True)
class Kept:
    """What a threshold keeps."""

    threshold: float  # kept: confidence >= threshold
    helping: Helping


@dataclass(frozen=True)
class Calibration:
    """The whole table."""

    base: Helping  # of all samples: the base rate
    without: Helping  # of samples without a confidence: vetoed, or with no known score
    rows: tuple[Kept, ...]  # by rising threshold


def calibrate(
    confidences: Sequence[float | None],
    lifts: Sequence[float],
    thresholds: Sequence[float] | None = None,
) -> Calibration:
    """Count, for each threshold, how many samples are kept and how many of them help.

    Args:
        confidences: (S,) in [0, 1]; None for a sample without one.
        lifts: (S,) in nats. Reasoning helps where this is above 0. They are measured on **other** negatives than the
            lift inside the confidences: on the same negatives a lucky draw would confirm itself.
        thresholds: in any order. None: the deciles; at decile d the least confident d tenths are left out (fewer if
            confidences are equal).

    Raises:
        ValueError: lengths differ, a confidence or threshold is nan or outside 0 to 1, a lift is not finite.
    """
    if len(confidences) != len(lifts):
        raise ValueError(f"{len(confidences)} confidences for {len(lifts)} lifts")
    if not all(map(math.isfinite, lifts)):
        raise ValueError("lifts must be finite")
    pairs = [(value, gain) for value, gain in zip(confidences, lifts, strict=True) if value is not None]
    ordered = sorted(value for value, _ in pairs)
    if thresholds is None:
        thresholds = [ordered[len(ordered) * decile // 10] for decile in range(10)] if ordered else []
    if not all(0 <= value <= 1 for value in [*ordered, *thresholds]):
        raise ValueError("confidences and thresholds must lie between 0 and 1")
    return Calibration(
        base=_helping(lifts),
        without=_helping([gain for value, gain in zip(confidences, lifts, strict=True) if value is None]),
        rows=tuple(
            Kept(float(threshold), _helping([gain for value, gain in pairs if value >= threshold]))
            for threshold in sorted(set(thresholds))
        ),
    )


def _helping(lifts: Sequence[float]) -> Helping:
    if not len(lifts):
        return Helping(0, None, None, None, None)
    # Takes half a second, which jobs that calibrate nothing need not wait.
    from scipy import stats

    count = sum(gain > 0 for gain in lifts)
    interval = stats.binomtest(int(count), len(lifts)).proportion_ci(0.95, method="wilson")
    return Helping(
        samples=len(lifts),
        share=float(count / len(lifts)),
        low=float(interval.low),
        high=float(interval.high),
        mean_lift=math.fsum(lifts) / len(lifts),
    )
