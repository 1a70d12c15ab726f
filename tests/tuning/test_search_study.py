"""Searches whose jobs take a moment: what ends early, is killed or fails, and what a second call does about it."""

from __future__ import annotations

import csv
import sys
import time
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from mllmrec.config import CONFIG_DIR
from mllmrec.errors import UserError
from mllmrec.tuning import process, study
from mllmrec.tuning.curve import curve
from mllmrec.tuning.plan import ALWAYS, Search
from mllmrec.tuning.results import best_command, write_trials
from mllmrec.tuning.space import Axis
from mllmrec.tuning.study import Study

optuna = pytest.importorskip("optuna", reason="pip install 'mllmrec[tune]'")

# Replaces mllmrec.train, whose imports would take most of a test's time. The objective is x itself, but for trouble.
JOB = """
import os, signal, time
from pathlib import Path
from hydra.core.hydra_config import HydraConfig
from mllmrec.cli import run_app

def work(cfg):
    folder = Path(HydraConfig.get().runtime.output_dir)
    (folder / "threads").write_text(os.environ.get("OMP_NUM_THREADS", "all"))
    with (folder / "starts").open("a") as stream:
        stream.write("x")
    (folder / "log.csv").write_text(f"stage,step,val/NDCG@3\\nsft,2,{cfg.x}\\ngrpo,4,{cfg.x}\\n")
    if cfg.x == 0.4 and len((folder / "starts").read_text()) == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    if cfg.x == 0.7 and not Path(cfg.mended).exists():
        raise ValueError("out of memory")
    if cfg.x == 0.1 or (cfg.x == 0.6 and not Path(cfg.mended).exists()):
        time.sleep(60)
    return cfg.x

if __name__ == "__main__":
    run_app(work, "train")
"""
ROOT = """\
x: 0.5
mended: none
resume: never
skip_finished: false
overwrite: false
share_stages: false
hydra: {sweep: {dir: none}, run: {dir: none}}
"""


@pytest.fixture
def search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Search:
    (tmp_path / "job.py").write_text(JOB, encoding="utf-8")
    (tmp_path / "small.yaml").write_text(ROOT, encoding="utf-8")
    flags = ["--config-path", str(tmp_path), "--config-name", "small", "--multirun"]
    monkeypatch.setattr(process, "COMMAND", [sys.executable, str(tmp_path / "job.py"), *flags])
    # The job has no such section, which would need all its settings.
    monkeypatch.setattr(process, "ALWAYS", [text for text in ALWAYS if text != "eval.split=validation"])
    monkeypatch.setattr(study, "POLL_SECONDS", 0.05)
    settings = OmegaConf.load(CONFIG_DIR / "tune.yaml")
    settings.study.pruner.n_startup_trials = 1
    axis = Axis("x", "interval(0.0,1.0)", optuna.distributions.FloatDistribution(0.0, 1.0))
    return Search(tmp_path / "search", [axis], [f"mended={tmp_path / 'mended'}"], settings, "NDCG@3")


def enqueued(search: Search, *values: float) -> None:
    """Let these be the first trials."""
    search.folder.mkdir()
    begun = optuna.create_study(
        storage=f"sqlite:///{search.folder / 'study.db'}", study_name="search", direction="maximize"
    )
    for value in values:
        begun.enqueue_trial({"x": value})
    search.settings.trials = len(values)


def run(search: Search) -> list:
    return Study(search, [], lambda trial: None).run().trials


def test_what_is_killed_goes_on_what_fails_is_told_and_what_ranks_badly_ends(search, tmp_path) -> None:
    enqueued(search, 0.4, 0.1, 0.7)
    trials = run(search)
    assert [trial.state.name for trial in trials] == ["COMPLETE", "PRUNED", "FAIL"]
    assert (trials[0].value, (search.folder / "trial-000" / "starts").read_text()) == (0.4, "xx")
    # The steps of the second phase follow those of the first.
    assert trials[0].intermediate_values == {2: 0.4, 1_000_004: 0.4}
    assert trials[1].intermediate_values == {2: 0.1}
    assert trials[2].user_attrs["error"] == "out of memory"

    # Again, with the cause gone: nothing else runs, and the failed trial has a successor in its folder.
    (tmp_path / "mended").touch()
    trials = run(search)
    assert [trial.state.name for trial in trials] == ["COMPLETE", "PRUNED", "FAIL", "COMPLETE"]
    starts = [(search.folder / f"trial-{number:03d}" / "starts").read_text() for number in range(3)]
    assert starts == ["xx", "x", "xx"]
    assert not (search.folder / "trial-003").exists()

    done = optuna.load_study(storage=f"sqlite:///{search.folder / 'study.db'}", study_name="search")
    write_trials(search.folder, done, search)
    with (search.folder / "trials.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["trial"], row["state"], row["NDCG@3"], row["x"]) for row in rows] == [
        ("0", "finished", "0.4", "0.4"),
        ("1", "ended early", "", "0.1"),
        ("2", "failed", "", "0.7"),
        ("3", "finished", "0.7", "0.7"),
    ]
    assert best_command(done, search).endswith(" x=0.7")


@pytest.mark.parametrize("name", ["samplers.RandomSampler", "samplers.TPESampler", "pruners.NopPruner"])
def test_another_class_of_optuna_is_named_alone(name: str) -> None:
    settings = OmegaConf.create({"_target_": f"optuna.{name}", "n_startup_trials": 5, "n_warmup_steps": 0})
    assert type(study._built(settings, seed=3)).__name__ == name.split(".")[1]


class Killed(BaseException):
    """The search ends here."""


def test_a_search_that_ends_goes_on_with_the_trial_that_was_running(search, tmp_path, monkeypatch) -> None:
    enqueued(search, 0.5, 0.6)
    sleep = time.sleep

    def until_the_second_runs(seconds: float) -> None:
        if (search.folder / "trial-001" / "starts").exists():
            raise Killed
        sleep(seconds)

    with monkeypatch.context() as patch:
        patch.setattr(study.time, "sleep", until_the_second_runs)
        with pytest.raises(Killed):
            run(search)
    (tmp_path / "mended").touch()
    trials = run(search)
    assert [(trial.state.name, trial.value) for trial in trials] == [("COMPLETE", 0.5), ("COMPLETE", 0.6)]
    starts = [(search.folder / f"trial-{number:03d}" / "starts").read_text() for number in range(2)]
    assert starts == ["x", "xx"]

    search.fixed.append("resume=never")
    with pytest.raises(UserError, match=r"holds a search of other axes or settings \(now .*resume=never"):
        run(search)


def test_the_same_values_are_not_run_twice_and_what_is_drawn_follows_from_the_seed(search) -> None:
    enqueued(search, 0.8, 0.8)
    trials = run(search)
    assert [trial.value for trial in trials] == [0.8, 0.8]
    assert not (search.folder / "trial-001").exists()
    asked = Study(search, [], lambda trial: None)
    asked.study = asked._open()
    first = asked._ask().params["x"]
    again = Study(search, [], lambda trial: None)
    again.study = optuna.create_study(direction="maximize")
    for _ in range(2):
        again.study.tell(again.study.ask(), 0.0)
    assert again._ask().params["x"] == first


def test_a_sampler_that_has_tried_everything_ends_the_search(search, monkeypatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(process, "cpu_count", lambda: 6)
    search.settings.jobs = 2
    search.settings.study.sampler = {"_target_": "optuna.samplers.BruteForceSampler"}
    values = optuna.distributions.CategoricalDistribution(["0.2", "0.3"])
    search.axes[:] = [Axis("x", "0.2,0.3", values)]
    assert sorted(trial.value for trial in run(search)) == [0.2, 0.3]
    # Two trials at a time share six cores.
    assert (search.folder / "trial-000" / "threads").read_text() == "3"


def test_a_search_of_trials_that_only_fail_ends(search) -> None:
    search.settings.jobs = 3
    search.settings.trials = 9
    search.fixed.append("absent=1")
    with pytest.raises(UserError, match=r"3 trials in a row failed, the last: .*absent"):
        run(search)


def test_a_curve_reads_what_recommenders_log_too(tmp_path) -> None:
    log = tmp_path / "log.csv"
    assert curve(log, "NDCG@3") == {}
    log.write_text("stage,step,loss,val/objective\nsasrec,0,,0.2\nsasrec,5,1.5,\nsasrec,10,,0.3\n")
    assert curve(log, "NDCG@3") == {0: 0.2, 10: 0.3}
