from __future__ import annotations

import csv

import pytest

pytestmark = pytest.mark.slow


def logged(folder, column):
    with (folder / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    return [float(row[column]) for row in rows if row["stage"] == "grpo" and row.get(column)]


def test_a_teacher_from_the_start_of_the_phase_differs_from_the_policy_from_the_first_step_on(job, tmp_path):
    apart = logged(job(tmp_path / "run", "variant=kdrl", "logger=csv"), "teacher_kl")
    assert len(apart) == 3
    assert min(apart) > 0
