from __future__ import annotations

import math
from dataclasses import asdict

import numpy as np
import pytest

from mllmrec.cot.assess.calibration import calibrate

Z2 = 1.959963984540054**2  # square of the normal distribution's 97.5 % point


def test_thresholds_count_what_they_keep_and_what_of_it_helps() -> None:
    confidences = [0.9, 0.8, 0.5, 0.2, None]
    lifts = [1.0, 3.0, -1.0, -2.0, 0.0]
    table = calibrate(confidences, lifts, [0.8, 0.1, 0.95])
    assert [(row.threshold, row.helping.samples) for row in table.rows] == [(0.1, 4), (0.8, 2), (0.95, 0)]
    all_four, two, none = (row.helping for row in table.rows)
    assert (all_four.share, all_four.mean_lift) == (0.5, 0.25)  # (1 + 3 − 1 − 2) / 4
    assert (two.share, two.mean_lift) == (1.0, 2.0)
    assert asdict(none) == {"samples": 0, "share": None, "low": None, "high": None, "mean_lift": None}
    # No change is no help: 2 of all 5 help, and the mean is 1/5.
    assert (table.base.samples, table.base.share, table.base.mean_lift) == (5, 0.4, 0.2)
    assert (table.without.samples, table.without.share, table.without.mean_lift) == (1, 0.0, 0.0)


def test_the_interval_is_wilsons() -> None:
    # For n of n the interval is [n / (n + z²), 1]; for 0 of n it is [0, z² / (n + z²)].
    helps = calibrate([0.5] * 4, [1.0] * 4).base
    assert (helps.low, helps.high) == (pytest.approx(4 / (4 + Z2)), pytest.approx(1.0))
    harms = calibrate([0.5] * 6, [-1.0] * 6).base
    assert (harms.low, harms.high) == (pytest.approx(0.0), pytest.approx(Z2 / (6 + Z2)))
    # For half of n it is symmetric: 1/2 ± sqrt(z² / (n + z²)) / 2.
    half = calibrate([0.5] * 8, [1.0, -1.0] * 4).base
    assert half.high == pytest.approx(0.5 + math.sqrt(Z2 / (8 + Z2)) / 2)
    assert half.low == pytest.approx(1 - half.high)


def test_deciles_leave_out_a_tenth_more_each() -> None:
    confidences = [number / 100 for number in range(20)]
    table = calibrate(confidences, [1.0] * 20)
    assert [row.threshold for row in table.rows] == confidences[::2]
    assert [row.helping.samples for row in table.rows] == list(range(20, 0, -2))


def test_equal_confidences_share_a_threshold() -> None:
    table = calibrate([0.5] * 7 + [0.9] * 3, [1.0] * 10)
    assert [(row.threshold, row.helping.samples) for row in table.rows] == [(0.5, 10), (0.9, 3)]


def test_rows_in_any_order_give_the_same_table() -> None:
    rng = np.random.default_rng(0)
    confidences, lifts = rng.random(200).round(1).tolist(), rng.normal(size=200).tolist()
    order = rng.permutation(200)
    assert calibrate(confidences, lifts) == calibrate(
        [confidences[index] for index in order], [lifts[index] for index in order]
    )


def test_calibration_tells_a_telling_confidence_from_an_empty_one() -> None:
    rng = np.random.default_rng(0)
    lifts = rng.normal(size=2000)
    telling = 1 / (1 + np.exp(-(lifts + rng.normal(size=2000))))
    top = calibrate(telling.tolist(), lifts.tolist()).rows[-1].helping
    base = calibrate(telling.tolist(), lifts.tolist()).base
    assert top.low is not None
    assert base.high is not None
    assert top.low > base.high
    blind = calibrate(rng.random(2000).tolist(), lifts.tolist()).rows[-1].helping
    assert blind.low is not None
    assert blind.high is not None
    assert blind.low < 0.5 < blind.high


def test_no_samples_and_no_confidences_make_an_empty_table() -> None:
    assert calibrate([], []).rows == ()
    table = calibrate([None, None], [1.0, -1.0])
    assert (table.rows, table.base.share, table.without.share) == ((), 0.5, 0.5)


@pytest.mark.parametrize(
    ("confidences", "lifts", "thresholds"),
    [
        ([0.5], [1.0, 2.0], None),
        ([math.nan], [1.0], None),
        ([1.5], [1.0], None),
        ([0.5], [math.nan], None),
        ([0.5], [math.inf], None),
        ([0.5], [1.0], [math.nan]),
        ([0.5], [1.0], [-1.0]),
    ],
)
def test_numbers_that_mean_nothing_are_refused(
    confidences: list[float | None], lifts: list[float], thresholds: list[float] | None
) -> None:
    with pytest.raises(ValueError, match=r"lifts|between 0 and 1"):
        calibrate(confidences, lifts, thresholds)
