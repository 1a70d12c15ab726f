from __future__ import annotations

import numpy as np
import pytest

from mllmrec.errors import UserError
from mllmrec.evaluation.metrics import (
    cutoffs_of,
    expected_at_random,
    mean_metrics,
    metric_names,
    objective_name,
    order_by_score,
    per_user_metrics,
)

USERS = [f"u{number}" for number in range(2000)]


def test_metrics_of_four_users():
    per_user = per_user_metrics(np.array([1, 2, 4, np.nan]), [1, 3])
    # HR@1: only rank 1 of 4 users. HR@3: ranks 1 and 2. NDCG@3: (1 + 1/log2 3) / 4 = 1.63093 / 4.
    # MRR: (1 + 1/2 + 1/4 + 0) / 4 = 1.75 / 4.
    assert mean_metrics(per_user) == pytest.approx(
        {"HR@1": 0.25, "HR@3": 0.5, "NDCG@3": 0.4077325, "MRR": 0.4375}
    )
    assert per_user["HR@3"].tolist() == [1, 1, 0, 0]


def test_names_are_in_reading_order_and_ndcg_at_1_is_left_out():
    assert metric_names([5, 1, 3]) == ["HR@1", "HR@3", "HR@5", "NDCG@3", "NDCG@5", "MRR"]


@pytest.mark.parametrize("ks", [[], [0, 3], [-1]])
def test_impossible_cutoffs_are_refused(ks):
    with pytest.raises(UserError, match=r"eval\.ks"):
        metric_names(ks)


def test_a_rank_below_one_is_refused():
    with pytest.raises(ValueError, match="start at 1"):
        per_user_metrics(np.array([1, 0, np.nan]), [1])


def test_no_users_is_an_error_and_not_nan():
    with pytest.raises(UserError, match="no user to evaluate"):
        mean_metrics(per_user_metrics(np.array([]), [1]))


def test_metrics_never_fall_as_the_cutoff_grows():
    # Fault 25 of the release: each K had its own prompt and answer, so HR@3 could exceed HR@5.
    ranks = np.random.default_rng(3).choice([*range(1, 12), np.nan], size=500)
    per_user = per_user_metrics(ranks, range(1, 13))
    for k in range(2, 12):
        assert (per_user[f"HR@{k}"] <= per_user[f"HR@{k + 1}"]).all()
        assert (per_user[f"NDCG@{k}"] <= per_user[f"NDCG@{k + 1}"]).all()


def test_chance_over_three_and_ten_candidates():
    # Ranks 1, 2, 3 equally likely: HR@1 = 1/3; NDCG@3 = (1 + 0.63093 + 0.5) / 3; MRR = (1 + 1/2 + 1/3) / 3 = 11/18.
    assert expected_at_random(3, [1, 3, 10]) == pytest.approx(
        {"HR@1": 1 / 3, "HR@3": 1, "HR@10": 1, "NDCG@3": 0.7103099, "NDCG@10": 0.7103099, "MRR": 11 / 18}
    )
    # Fault 26: with nine negatives a random order has HR@3 = 0.30 and HR@5 = 0.50; the table says so.
    ten = expected_at_random(10, [3, 5])
    assert (ten["HR@3"], ten["HR@5"]) == pytest.approx((0.3, 0.5))


def test_candidates_stand_by_decreasing_score():
    scores = np.array([[0.1, 0.9, 0.5], [-np.inf, -1.0, -2.0]])
    assert order_by_score(scores, ["a", "b"], seed=0).tolist() == [[1, 2, 0], [1, 2, 0]]


@pytest.mark.parametrize("column", [0, 9])
def test_constant_scores_rank_as_chance_wherever_the_target_stands(column):
    order = order_by_score(np.zeros((2000, 10)), USERS, seed=0)
    ranks = (order == column).argmax(axis=1) + 1
    # Uniform over 1..10: mean 5.5, standard error 2.87 / sqrt(2000) = 0.064; 4 standard errors are allowed.
    assert abs(ranks.mean() - 5.5) < 0.26
    assert set(ranks) == set(range(1, 11))


def test_tied_candidates_keep_their_place_above_and_below_others():
    order = order_by_score(np.tile([1.0, 0.0, 0.0, -1.0], (2000, 1)), USERS, seed=0)
    assert (order[:, [0, 3]] == [0, 3]).all()
    assert set(order[:, 1]) == {1, 2}


def test_ties_do_not_depend_on_batching_but_on_seed():
    scores = np.zeros((50, 10))
    whole = order_by_score(scores, USERS[:50], seed=0)
    halves = [
        order_by_score(scores[:25], USERS[:25], seed=0),
        order_by_score(scores[25:], USERS[25:50], seed=0),
    ]
    assert (whole == np.concatenate(halves)).all()
    assert (whole != order_by_score(scores, USERS[:50], seed=1)).any()


def test_nan_scores_are_refused_naming_the_user():
    with pytest.raises(ValueError, match="1 of 2 users have a NaN score, first user b"):
        order_by_score(np.array([[0.0, 1.0], [np.nan, 0.0]]), ["a", "b"], seed=0)


@pytest.mark.parametrize(
    ("ks", "name"), [([1, 3, 5], "NDCG@3"), ([10, 5], "NDCG@10"), ([5], "NDCG@5"), ([1], "HR@1")]
)
def test_runs_are_chosen_by_the_second_cut_off_or_the_only_one(ks, name):
    assert objective_name(ks) == name
    assert name in metric_names(ks)
    assert cutoffs_of(metric_names(ks)) == sorted(ks)
