from __future__ import annotations

import numpy as np
import pytest

from mllmrec.errors import UserError
from mllmrec.evaluation.intervals import bootstrap_intervals, sign_flip_p_values
from mllmrec.evaluation.metrics import per_user_metrics
from mllmrec.reporting.comparison import by_cutoff, cohens_d, holm


def test_holm_by_hand():
    # Ascending .01, .02, .03, .04 times 4, 3, 2, 1: .04, .06, .06, .04; then none may be below the one before it.
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    # .5 * 2 is capped at 1.
    assert holm([0.6, 0.5]) == [1.0, 1.0]
    assert holm([0.03]) == [0.03]
    assert holm([]) == []


def test_effect_size_by_hand():
    # Mean 2; deviations -1, 0, 1, so the variance with n - 1 is 1.
    assert cohens_d(np.array([1.0, 2.0, 3.0])) == 2.0
    assert cohens_d(np.zeros(5)) == 0.0
    assert cohens_d(np.full(5, 0.1)) is None


def test_columns_go_by_cutoff():
    names = ["HR@1", "HR@3", "HR@10", "NDCG@3", "NDCG@10", "MRR"]
    assert by_cutoff(names) == ["HR@1", "HR@3", "NDCG@3", "HR@10", "NDCG@10", "MRR"]


def test_a_row_is_the_mean_over_seeds_of_each_user(tmp_path, write_run, experiment):
    write_run(tmp_path / "a", [1, 2, 4, 11], seed=0)
    write_run(tmp_path / "b", [1, 4, 1, 11], seed=1)
    entry = experiment(tmp_path).scores[0]
    # HR@3 of the four users: 1 1 0 0 and 1 0 1 0.
    assert entry.per_user["HR@3"].tolist() == [1.0, 0.5, 0.5, 0.0]
    assert entry.mean("HR@3") == 0.5
    # HR@1: 1 of 4 and 2 of 4; their standard deviation is .25 / sqrt(2).
    assert entry.per_seed["HR@1"] == [0.25, 0.5]
    assert entry.spread("HR@1") == pytest.approx(0.25 / 2**0.5)
    expected = bootstrap_intervals(entry.per_user, seed=0, resamples=100)
    assert entry.intervals == expected
    assert entry.seconds == 10


def test_users_are_joined_by_id_whatever_their_order(tmp_path, write_run, experiment):
    generator = np.random.default_rng(0)
    ranks = generator.integers(1, 11, 40).astype(float)
    ids = np.array([f"u{user}" for user in range(40)])
    order = generator.permutation(40)
    write_run(tmp_path / "a", ranks, users=ids)
    write_run(tmp_path / "b", ranks[order], users=ids[order], method="grpo_only", typed=["method=grpo_only"])
    comparison = experiment(tmp_path).comparisons[0]
    assert (comparison.difference, comparison.interval, comparison.p) == (0.0, [0.0, 0.0], 1.0)


def test_a_known_shift_is_found_and_signed(tmp_path, write_run, experiment):
    # 60 of 200 users go from rank 4 to rank 1: NDCG@3 from 0 to 1, a mean of .3.
    write_run(tmp_path / "a", [4.0] * 200, typed=["method=sft"])
    better = [1.0] * 60 + [4.0] * 140
    write_run(tmp_path / "b", better, method="mllmrec_r1", typed=["method=mllmrec_r1"])
    write_run(tmp_path / "c", [4.0] * 199 + [1.0], method="grpo_only", typed=["method=grpo_only"])
    result = experiment(tmp_path, baseline="method=sft")
    found = {comparison.label: comparison for comparison in result.comparisons}
    up, little = found["mllmrec_r1"], found["grpo_only"]
    assert up.difference == pytest.approx(0.3)
    # p of 1 / 5000 at least, times two comparisons.
    assert (up.p, up.p_holm) == (pytest.approx(1 / 5000), pytest.approx(2 / 5000))
    assert up.interval[0] > 0.2
    # Standard deviation of a share: sqrt(.3 * .7 * 200 / 199).
    assert up.effect == pytest.approx(0.3 / (0.21 * 200 / 199) ** 0.5)
    # Only one user changed: both signs are equally extreme.
    assert (little.p, little.p_holm, little.users) == (1.0, 1.0, 200)
    # Compared with the best row, the others are lower.
    best = experiment(tmp_path)
    assert best.baseline.row.label == "mllmrec_r1"
    assert all(comparison.difference < 0 for comparison in best.comparisons)


def test_without_a_difference_one_p_value_in_twenty_is_below_0_05():
    # Both runs draw each user's ranks from the same distribution, so the runs are exchangeable.
    generator = np.random.default_rng(0)
    low = 0
    for trial in range(1000):
        difficulty = generator.integers(1, 8, 60)
        a, b = (
            per_user_metrics(difficulty + generator.integers(0, 4, 60).astype(float), [3])["NDCG@3"]
            for _ in "ab"
        )
        low += sign_flip_p_values((a - b)[None], seed=trial, flips=199)[0] < 0.05
    assert low / 1000 == pytest.approx(0.05, abs=0.02)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"candidates_hash": "bbbb"}, "candidates_hash is aaaa in the first and bbbb .* same protocol_seed"),
        ({"dataset": "other"}, "dataset is toy in the first and other"),
        ({"split": "validation"}, "split is test"),
        ({"ranking": "generate"}, "ranking is likelihood"),
        ({"num_candidates": 100}, "num_candidates is 10"),
        ({"cot": True}, "cot is False"),
    ],
)
def test_runs_measured_otherwise_are_refused_by_name(tmp_path, write_run, experiment, changed, message):
    write_run(tmp_path / "a", [1, 2, 3])
    write_run(tmp_path / "b", [1, 2, 3], seed=1)
    write_run(tmp_path / "c", [1, 2, 3], seed=2, protocol=changed)
    with pytest.raises(UserError, match=f"a and .*c cannot be compared: {message}"):
        experiment(tmp_path)


@pytest.mark.parametrize("ranking", ["score", "pointwise"])
def test_a_method_that_has_its_own_way_of_ranking_stands_beside_any(tmp_path, write_run, experiment, ranking):
    write_run(tmp_path / "a", [1, 2, 3])
    write_run(tmp_path / "b", [1, 2, 3], seed=1, protocol={"ranking": ranking})
    assert experiment(tmp_path).protocol["ranking"] == f"likelihood or {ranking}"


def test_other_users_under_the_same_hash_are_refused_by_name(tmp_path, write_run, experiment):
    write_run(tmp_path / "a", [1, 2], users=["u0", "u1"])
    write_run(tmp_path / "b", [1, 2], users=["u0", "u2"], seed=1)
    with pytest.raises(
        UserError, match=r"a and .*b cannot be compared: 2 and 2 users, 1 of the first .* user u1"
    ):
        experiment(tmp_path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"stage": "grpo"}, "stage=grpo: .*a has sft or zero_shot; choose"),
        ({"metric": "HR@7"}, "metric=HR@7: not in these runs; choose HR@1, HR@10, "),
        ({"metrics": ["HR@1", "X"]}, "metrics: no X in these runs"),
        ({"baseline": "sft"}, "baseline=sft: no such row; choose best or method=sft"),
    ],
)
def test_unknown_names_are_answered_with_those_there_are(tmp_path, write_run, experiment, settings, message):
    write_run(tmp_path / "a", {"zero_shot": [3, 3], "sft": [1, 2]})
    with pytest.raises(UserError, match=message):
        experiment(tmp_path, **settings)


def test_the_stage_is_the_last_unless_named(tmp_path, write_run, experiment):
    write_run(tmp_path / "a", {"zero_shot": [3, 3], "sft": [1, 1]})
    assert experiment(tmp_path).scores[0].mean("HR@1") == 1
    assert experiment(tmp_path, stage="zero_shot").scores[0].mean("HR@1") == 0


def test_the_metric_is_ndcg_at_the_second_cutoff_unless_named(tmp_path, write_run, experiment):
    write_run(tmp_path / "a", [1, 2])
    assert experiment(tmp_path).metric == "NDCG@3"
    assert experiment(tmp_path, metric="HR@5").metric == "HR@5"
