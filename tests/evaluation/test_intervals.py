from __future__ import annotations

import time

import numpy as np
import pytest
from scipy import stats

from mllmrec.errors import UserError
from mllmrec.evaluation.intervals import (
    bootstrap_intervals,
    crossed_interval,
    paired_differences,
    sign_flip_p_values,
)
from mllmrec.evaluation.metrics import per_user_metrics


def test_interval_of_a_share_is_as_wide_as_theory_says():
    # 1000 of 4000 hit: standard error sqrt(.25 * .75 / 4000) = 0.006847, so 0.25 ± 1.96 * 0.006847 = 0.25 ± 0.0134.
    low, high = bootstrap_intervals({"HR@1": np.repeat([1.0, 0.0], [1000, 3000])}, seed=0)["HR@1"]
    assert low == pytest.approx(0.25 - 0.0134, abs=0.0015)
    assert high == pytest.approx(0.25 + 0.0134, abs=0.0015)


def test_a_metric_without_spread_has_an_interval_of_no_width():
    assert bootstrap_intervals({"HR@10": np.ones(20)}, seed=0)["HR@10"] == [1.0, 1.0]


def test_same_seed_same_interval_and_metrics_share_their_resamples():
    ranks = np.random.default_rng(0).integers(1, 11, 300).astype(float)
    both = bootstrap_intervals(per_user_metrics(ranks, [3, 5]), seed=4)
    assert both == bootstrap_intervals(per_user_metrics(ranks, [3, 5]), seed=4)
    assert both != bootstrap_intervals(per_user_metrics(ranks, [3, 5]), seed=5)
    assert both["HR@3"] == bootstrap_intervals({"HR@3": (ranks <= 3).astype(float)}, seed=4)["HR@3"]
    assert both["HR@3"][0] <= both["HR@5"][0]
    assert both["HR@3"][1] <= both["HR@5"][1]


def test_intervals_of_very_many_users_agree_with_those_drawn_user_by_user(monkeypatch):
    ranks = np.random.default_rng(0).integers(1, 11, 2000).astype(float)
    one_by_one = bootstrap_intervals(per_user_metrics(ranks, [3, 5]), seed=0, resamples=4000)
    monkeypatch.setattr("mllmrec.evaluation.intervals.MANY", 1999)
    counted = bootstrap_intervals(per_user_metrics(ranks, [3, 5]), seed=0, resamples=4000)
    assert counted != one_by_one
    for name, edges in one_by_one.items():  # half the width is 0.02, and shares move in steps of 0.0005
        assert counted[name] == pytest.approx(edges, abs=0.0025)
    assert counted["HR@3"][0] <= counted["HR@5"][0]


def test_one_seed_leaves_an_interval_over_users_alone():
    hits = np.repeat([1.0, 0.0], [1000, 3000])
    assert crossed_interval(hits[None], seed=0) == pytest.approx([0.25 - 0.0134, 0.25 + 0.0134], abs=0.0015)


def test_seeds_that_differ_widen_the_interval_though_all_users_agree():
    # Half of the resamples hold one seed twice: 0 or 1, so 0.5 off the mean, stretched by sqrt(2 / 1).
    low, high = crossed_interval(np.repeat([[0.0], [1.0]], 50, axis=1), seed=0)
    assert (low, high) == pytest.approx((0.5 - 0.5 * 2**0.5, 0.5 + 0.5 * 2**0.5))
    with pytest.raises(ValueError, match="a seed and two users"):
        crossed_interval(np.zeros((2, 1)), seed=0)


def test_one_user_has_no_interval():
    with pytest.raises(UserError, match="at least 2 users, but there are 1"):
        bootstrap_intervals({"MRR": np.array([1.0])}, seed=0)


def test_p_of_three_users_who_all_improve():
    # Of the 8 sign patterns, +++ and --- are as extreme: exact p = 2/8.
    p = sign_flip_p_values(np.array([[1.0, 1.0, 1.0, 0.0]]), seed=0)
    assert p == pytest.approx([0.25], abs=0.02)


def test_p_agrees_with_scipy_on_all_sign_patterns():
    differences = np.random.default_rng(1).normal(0.3, 1, size=(2, 12))
    exact = stats.permutation_test(
        (differences,), np.mean, permutation_type="samples", vectorized=True, n_resamples=np.inf, axis=-1
    ).pvalue
    assert sign_flip_p_values(differences, seed=0, flips=20000) == pytest.approx(exact, abs=0.015)


def test_paired_difference_is_signed_and_symmetric():
    sft = per_user_metrics(np.array([1, 2, 3, 4, 5, 6.0]), [3])
    grpo = per_user_metrics(np.array([1, 1, 2, 3, 6, 6.0]), [3])
    forward = paired_differences(grpo, sft, seed=0)["HR@3"]
    # Users at rank 3 or better: 4 of 6 against 3 of 6.
    assert forward["mean"] == pytest.approx(1 / 6)
    assert forward["users"] == 6
    assert forward["interval"][0] <= forward["mean"] <= forward["interval"][1]
    backward = paired_differences(sft, grpo, seed=0)["HR@3"]
    assert backward["mean"] == pytest.approx(-1 / 6)
    assert backward["p"] == forward["p"] == 1.0  # only one user differs: both signs are equally extreme


def test_pairing_makes_a_small_steady_gain_visible():
    baseline = np.random.default_rng(2).random(400)
    gain = paired_differences({"MRR": baseline + 0.01}, {"MRR": baseline}, seed=0)["MRR"]
    # All 400 differences are +0.01; the spread between users, 0.29 / sqrt(400) = 0.014, cancels.
    assert gain["interval"] == pytest.approx([0.01, 0.01])
    assert gain["p"] == pytest.approx(1 / 5000)


def test_equal_models_have_p_one():
    values = {"HR@1": np.array([1.0, 0.0, 1.0])}
    assert paired_differences(values, values, seed=0)["HR@1"] == {
        "mean": 0,
        "interval": [0, 0],
        "p": 1,
        "users": 3,
    }


def test_unpaired_sides_are_refused():
    with pytest.raises(ValueError, match="same metrics on the same users"):
        paired_differences({"MRR": np.ones(3)}, {"MRR": np.ones(2)}, seed=0)


def test_amazon_beauty_size_takes_seconds():
    ranks = np.random.default_rng(0).integers(1, 11, (2, 22363)).astype(float)
    first, second = (per_user_metrics(row, [1, 3, 5, 10]) for row in ranks)
    started = time.process_time()
    bootstrap_intervals(first, seed=0)
    paired_differences(first, second, seed=0)
    # A job has four phases and three comparisons: 4 times this must stay under 15 seconds.
    assert time.process_time() - started < 3.75


def test_the_sign_patterns_are_those_of_the_seed():
    differences = np.random.default_rng(2).normal(0.3, 1, size=(1, 40))
    first = sign_flip_p_values(differences, seed=0, flips=200)
    assert sign_flip_p_values(differences, seed=0, flips=200) == first
    assert len({float(sign_flip_p_values(differences, seed=seed, flips=200)[0]) for seed in range(6)}) > 1
