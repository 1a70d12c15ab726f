"""Reports of a phase's best or last weights, and of the baselines and other negatives beside every run."""

from __future__ import annotations

import numpy as np
import pytest

from mllmrec.evaluation.metrics import mean_metrics, per_user_metrics
from mllmrec.evaluation.records import StageRecords, write_stage
from mllmrec.reporting.notes import notes
from mllmrec.reporting.tables import results
from mllmrec.run.folder import RunFolder


def add_last_weights(folder, stage, ranks):
    """Say that ``stage`` kept its best weights, and that its last ones rank the users at ``ranks``."""
    run = RunFolder(folder)
    array = np.asarray(ranks, dtype=float)
    users = [f"u{user}" for user in range(len(array))]
    with write_stage(run.per_user_path, f"{stage}_last") as writer:
        targets = [f"target of {user}" for user in users]
        writer.append(StageRecords(users, targets, array, [[]] * len(users), np.full(len(users), 10)))
    means = mean_metrics(per_user_metrics(array, [1, 3, 5, 10]))
    entry = {"step": 9, "metrics": means, "intervals": {}}
    kept = {"step": 5, "metrics": run.metrics()["stages"][stage], "intervals": {}}
    run.record_weights(stage, {"kept": "best", "best": kept, "last": entry, "difference": {}})


@pytest.mark.parametrize(("weights", "expected"), [("kept", 1.0), ("best", 1.0), ("last", 0.5)])
def test_a_report_reads_the_weights_that_are_asked_for(write_run, experiment, tmp_path, weights, expected):
    folder = write_run(tmp_path / "a", [1, 1])
    add_last_weights(folder, "sft", [1, 2])
    found = experiment(tmp_path, weights=weights)
    assert found.scores[0].mean("HR@1") == expected
    assert ("weights of each phase" in results(found).caption) is (weights != "kept")


def test_a_stage_without_a_choice_stands_with_the_weights_that_it_has(write_run, experiment, tmp_path):
    write_run(tmp_path / "a", [1, 2])
    assert experiment(tmp_path, weights="last").scores[0].mean("HR@1") == 0.5


def test_runs_without_other_negatives_leave_a_note_instead_of_a_table(write_run, experiment, tmp_path):
    for method in ("sft", "dpo"):
        write_run(tmp_path / method, [1, 2], method=method, typed=["method"])
    assert notes(experiment(tmp_path)) == []
    write_run(tmp_path / "sft" / "other_negatives", [2, 1])
    (line,) = notes(experiment(tmp_path))
    assert line.startswith("only 1 of 2 runs were also ranked among other negatives")


def test_counting_baselines_stand_above_the_rows_unless_they_are_rows(write_run, experiment, tmp_path):
    for method in ("sft", "popularity"):
        folder = write_run(tmp_path / method, {method: [1, 2]}, method=method, typed=["method"])
        for name, value in (("popularity", 0.25), ("item_knn", 0.75)):
            metrics = {"HR@1": value}
            RunFolder(folder).record_baseline(name, metrics, {"HR@1": [value - 0.1, value + 0.1]})
    table = results(experiment(tmp_path, metrics=["HR@1"]))
    assert [row[0].text for row in table.rows] == ["chance", "item_knn", "popularity", "sft"]
    assert table.rows[1][-1].text == "0.750"
    assert table.rows[1][-1].detail == "[0.650, 0.850]"
    assert table.muted == {0, 1}
