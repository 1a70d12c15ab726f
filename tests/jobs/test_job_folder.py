"""A run folder belongs to one job at a time, and keeps a finished run until another job has something to write."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mllmrec.errors import UserError

LIGHT = ["method=popularity", "caption=none", "cot_policy=none"]
COMMON = ["hydra.run.dir=run", "cache_dir=cache", "trainer=cpu", "logger=none", "heldout.users=0", *LIGHT]
SMALL = ["dataset.num_users=40", "dataset.num_items=30"]
TYPO = ["dataset.interactions=typo.csv", "dataset.items=typo.csv"]
SLOW = """
import pathlib, time
from mllmrec.baselines.popularity import Popularity
class SlowFit(Popularity):
    def fit(self, inputs):
        pathlib.Path("here").touch()
        time.sleep(120)
"""


def content(folder: Path) -> dict[str, bytes]:
    """Every file but the lock."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


@pytest.mark.parametrize(
    "overrides",
    [
        ["dataset=tabular", *TYPO],
        ["eval.num_negatives=39"],
        ["method=sft", "backbone.max_length=20"],
        ["method=zero_shot", "backbone=hf", "backbone.path=no/such/model"],
    ],
)
def test_a_run_that_is_refused_leaves_the_finished_one_as_it_was(job, tmp_path, overrides) -> None:
    folder = job(tmp_path / "run", *LIGHT)
    before = content(folder)
    assert {"metrics.json", "finished.json", "per_user.parquet", "data.json", "run.log"} <= set(before)
    small = not any(text.startswith(("dataset=", "backbone=")) for text in overrides)
    with pytest.raises(UserError):
        job(folder, *LIGHT, *overrides, "overwrite=true", small=small)
    assert content(folder) == before


def test_a_finished_run_is_replaced_only_when_asked_for(job, tmp_path) -> None:
    folder = job(tmp_path / "run", *LIGHT)
    before = content(folder)
    (folder / "resume" / "phases").mkdir(parents=True)  # as after a kill right after the end
    with pytest.raises(UserError, match=r"run holds a finished run: .*hydra\.run\.dir.*overwrite=true"):
        job(folder, *LIGHT)
    assert content(folder) == before
    assert not (folder / "resume").exists()
    job(folder, *LIGHT, "method=random", "overwrite=true")
    after = content(folder)
    assert "random" in json.loads(after["metrics.json"])["stages"]
    assert b"name: random" in after[".hydra/resolved.yaml"]


def test_a_command_that_fails_changes_nothing_of_a_finished_run_not_even_hydras_files(
    command, tmp_path
) -> None:
    first = command("train", *COMMON, *SMALL, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    before = content(tmp_path / "run")
    assert {
        ".hydra/config.yaml",
        ".hydra/hydra.yaml",
        ".hydra/overrides.yaml",
        ".hydra/resolved.yaml",
    } <= set(before)
    assert b"method=popularity" in before[".hydra/overrides.yaml"]
    wrong = command("train", *COMMON, "dataset=tabular", *TYPO, "overwrite=true", cwd=tmp_path)
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1), wrong.stderr
    assert "typo.csv" in wrong.stderr
    assert content(tmp_path / "run") == before


def test_an_unfinished_run_is_replaced_without_asking(job, tmp_path) -> None:
    folder = job(tmp_path / "run", *LIGHT)
    (folder / "finished.json").unlink()
    (folder / "failed.json").write_text('{"error": "killed"}')
    job(folder, *LIGHT, "method=random")
    assert (folder / "finished.json").is_file()
    assert not (folder / "failed.json").exists()
    assert "random" in json.loads((folder / "metrics.json").read_text())["stages"]


def test_a_run_that_fails_before_it_has_its_data_is_marked_in_a_folder_without_a_finished_one(
    job, tmp_path
) -> None:
    with pytest.raises(UserError):
        job(tmp_path / "run", *LIGHT, "eval.num_negatives=39")
    assert "items left as negatives" in json.loads((tmp_path / "run" / "failed.json").read_text())["error"]
    assert (tmp_path / "run" / "run.log").is_file()
    assert not (tmp_path / "run" / "metrics.json").exists()


def test_two_runs_at_once_in_one_folder_and_one_after_a_killed_one(command, tmp_path) -> None:
    (tmp_path / "slow.py").write_text(SLOW)
    first = subprocess.Popen(
        [sys.executable, "-m", "mllmrec.train", *COMMON, *SMALL, "method.recommender._target_=slow.SlowFit"],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not (tmp_path / "here").exists():
        assert first.poll() is None, first.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    before = content(tmp_path / "run")
    second = command("train", *COMMON, *SMALL, cwd=tmp_path)
    assert (second.returncode, second.stderr.count("\n")) == (2, 1), second.stderr
    assert "run: another job is writing in this folder" in second.stderr
    assert content(tmp_path / "run") == before
    first.send_signal(signal.SIGKILL)
    first.wait()
    third = command("train", *COMMON, *SMALL, cwd=tmp_path)
    assert third.returncode == 0, third.stderr
    assert (tmp_path / "run" / "finished.json").is_file()
