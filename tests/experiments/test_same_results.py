"""The comparison of what two commits compute: what counts as a difference, and that the comparison misses none."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "experiments"))
import same_results


def write(run: Path, hits: float = 0.25, loss: str = "0.5", seconds: str = "1.0") -> Path:
    run.mkdir()
    cost = {"sft": {"seconds": float(seconds)}}
    (run / "metrics.json").write_text(json.dumps({"stages": {"sft": {"HR@1": hits}}, "cost": cost}))
    (run / "log.csv").write_text(f"stage,step,seconds,loss\nsft,0,{seconds},{loss}\n")
    return run


def test_times_are_no_difference_and_the_last_digit_is_one(tmp_path) -> None:
    before = write(tmp_path / "before")
    assert same_results.differences(before, write(tmp_path / "slower", seconds="9.0")) == []
    (found,) = same_results.differences(before, write(tmp_path / "metric", hits=0.250001))
    assert found.startswith("metrics.json stages: ")
    (found,) = same_results.differences(before, write(tmp_path / "loss", loss="0.500001"))
    assert found.startswith("log.csv line 2: ")


def test_a_file_that_one_alone_has_is_a_difference(tmp_path, write_rankings) -> None:
    before, after = write(tmp_path / "before"), write(tmp_path / "after")
    write_rankings(after)
    (found,) = same_results.differences(before, after)
    assert found.startswith("per_user.parquet row 0: None before")


@pytest.fixture
def write_rankings():
    import numpy as np

    from mllmrec.evaluation.records import StageRecords, write_stage

    def write_them(run: Path) -> None:
        with write_stage(run / "per_user.parquet", "sft") as writer:
            writer.append(StageRecords(["u"], ["1"], np.array([1.0]), [["1", "2"]], np.array([2])))

    return write_them


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["before=nothing", "jobs=dpo"], "before=nothing"),
        (["jobs=dpo,ppo"], "jobs=ppo: there are from_scratch"),
        (["after=x"], "There are before, jobs"),
    ],
)
def test_wrong_use_ends_with_status_2(arguments: list[str], said: str) -> None:
    done = subprocess.run([sys.executable, same_results.__file__, *arguments], capture_output=True, text=True)
    assert done.returncode == 2
    assert said in done.stderr
