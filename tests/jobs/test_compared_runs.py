from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mllmrec.evaluation.records import StageRecords, write_stage
from mllmrec.jobs.compared_runs import compared_runs, compared_values, leaves
from mllmrec.run.folder import RunFolder


def write(folder: Path, ranks: list[float], users: str = "abc", log: str = "") -> RunFolder:
    run = RunFolder(folder)
    with write_stage(run.per_user_path, "sft") as writer:
        count = len(ranks)
        writer.append(
            StageRecords(list(users), ["t"] * count, np.array(ranks), [[]] * count, np.full(count, 10))
        )
    run.log_path.write_text(log)
    return run


def test_leaves_are_named_by_their_paths() -> None:
    nested = {"a": {"HR@1": 0.5, "interval": [0.25, 0.75]}, "b": "x"}
    assert dict(leaves(nested)) == {"a.HR@1": 0.5, "a.interval[0]": 0.25, "a.interval[1]": 0.75, "b": "x"}


def test_the_largest_difference_is_named() -> None:
    found = compared_values("f", {"a": 1.0, "b": 2.0, "c": 3}, {"a": 1.5, "b": 2.25, "c": 3.0})
    assert (found.values, found.differing, found.largest) == (3, 2, 0.5)
    assert found.where == "a: 1.0, again 1.5"
    assert found.result == "2 differ, numbers by at most 0.5"


def test_what_is_no_number_in_both_comes_first() -> None:
    found = compared_values("f", {"a": 1.0, "hash": "x"}, {"a": 9.0, "hash": "y", "new": 1})
    assert (found.values, found.differing, found.largest) == (3, 3, 8.0)
    assert found.where == "hash: x, again y"
    only = compared_values("f", {"a": 1}, {"a": 1, "new": True})
    assert (only.where, only.result) == ("new: nothing, again True", "1 differ")


def by_file(first: RunFolder, second: RunFolder) -> dict:
    return {found.what: found for found in compared_runs(first, second)}


def test_ranks_and_rows_are_compared_but_not_their_seconds(tmp_path) -> None:
    head = "stage,step,seconds,loss,reward\n"
    first = write(tmp_path / "1", [1, 5, np.nan], log=head + "sft,1,0.5,2.5,\nsft,2,0.75,nan,\n")
    second = write(tmp_path / "2", [1, 3, np.nan], log=head + "sft,1,7.0,2.25,\nsft,2,8.0,nan,\n")
    found = by_file(first, second)
    ranks, log = found["per_user.parquet"], found["log.csv"]
    assert (ranks.values, ranks.differing, ranks.largest) == (3, 1, 2.0)
    assert ranks.where == "sft user b: 5, again 3"
    assert (log.values, log.differing, log.largest) == (2, 1, 0.25)
    assert log.where == "sft step 1 loss: 2.5, again 2.25"
    assert not any(one.differing for one in compared_runs(first, first))
    assert not (tmp_path / "1" / "other_negatives").exists()


@pytest.mark.parametrize(
    ("ranks", "users", "largest", "where"),
    [
        ([1, 5, 4], "abc", 7.0, "sft user c: 11, again 4"),  # nowhere among ten candidates, and fourth
        ([1, 5, np.nan], "abd", None, "sft: other users or targets"),
        ([1, 5], "ab", None, "sft: other users or targets"),
    ],
)
def test_targets_that_are_not_ranked_and_other_users_differ(tmp_path, ranks, users, largest, where) -> None:
    first, second = write(tmp_path / "1", [1, 5, np.nan]), write(tmp_path / "2", ranks, users)
    found = by_file(first, second)["per_user.parquet"]
    assert (found.differing, found.largest, found.where) == (1, largest, where)


def test_which_attempt_wrote_the_reasoning_does_not_count(tmp_path) -> None:
    runs = [write(tmp_path / name, [1, 2, 3]) for name in "ab"]
    for run, counts in zip(
        runs, ({"samples": 3, "written": 3}, {"samples": 2, "from_cache": 3}), strict=True
    ):
        run.data_path.write_text(json.dumps({"cot": {"stages": {"draft": counts}}}))
    found = by_file(*runs)["data.json"]
    assert (found.values, found.where) == (1, "cot.stages.draft.samples: 3, again 2")


def test_a_phase_that_only_one_run_has_differs(tmp_path) -> None:
    first, second = write(tmp_path / "1", [1, 2, 3]), write(tmp_path / "2", [1, 2, 3])
    with write_stage(second.per_user_path, "grpo") as writer:
        writer.append(StageRecords(["a"], ["t"], np.array([1.0]), [[]], np.array([10])))
    found = by_file(first, second)["per_user.parquet"]
    assert (found.values, found.differing, found.where) == (3, 1, "grpo: only in the second run")
