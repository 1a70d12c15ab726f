from __future__ import annotations

import sys
from pathlib import Path

import pytest
from filelock import FileLock
from omegaconf import OmegaConf

from mllmrec.errors import UserError
from mllmrec.sweeping import run
from mllmrec.sweeping.jobs import Job, Sweep
from mllmrec.sweeping.run import Machine, run_sweep

# Replaces mllmrec.train, because its imports would take most of a test's time.
JOB = """
import os, signal
from mllmrec.cli import run_app

def work(cfg):
    if cfg.kind == "fatal":
        os.kill(os.getpid(), signal.SIGKILL)
    if cfg.kind == "wrong":
        raise ValueError("first line\\nsecond line")
    print("threads", os.environ["OMP_NUM_THREADS"])
    return 0.5

if __name__ == "__main__":
    run_app(work, "train")
"""
ROOT = "kind: null\nhydra: {sweep: {dir: none}, run: {dir: none}}\n"


@pytest.fixture
def make_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "job.py").write_text(JOB, encoding="utf-8")
    (tmp_path / "small.yaml").write_text(ROOT, encoding="utf-8")
    flags = ["--config-path", str(tmp_path), "--config-name", "small", "--multirun"]
    monkeypatch.setattr(run, "MULTIRUN", [sys.executable, str(tmp_path / "job.py"), *flags])
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)

    def make(*kinds: str) -> Sweep:
        jobs = {f"kind-{kind}": Job(OmegaConf.create(), [f"kind={kind}"]) for kind in kinds}
        return Sweep(tmp_path / "sweep", jobs, [f"kind={','.join(kinds)}"])

    return make


@pytest.mark.parametrize("at_once", [1, 2])
def test_neither_a_failed_job_nor_a_killed_process_stops_the_others(
    make_sweep, monkeypatch, at_once: int
) -> None:
    locks: list[FileLock] = []
    monkeypatch.setattr(run, "FileLock", lambda path: locks.append(FileLock(path)) or locks[0])
    told: dict[str, dict] = {}
    sweep = make_sweep("first", "fatal", "wrong", "last")
    errors = run_sweep(sweep, Machine(at_once, [], 3), None, told.__setitem__)
    assert not locks[0].is_locked
    assert errors.keys() == {"kind-fatal", "kind-wrong"}
    assert errors["kind-fatal"].startswith("its process ended in the middle")
    assert errors["kind-wrong"] == "first line"
    assert told.keys() == {"kind-first", "kind-wrong", "kind-last"}
    assert told["kind-last"]["objective"] == 0.5
    output = (sweep.folder / "output.log").read_text(encoding="utf-8")
    assert "threads 3" in output
    # If a pool of processes ran the job, its source is not available, so its lines may be missing.
    assert "Traceback" in output
    assert "ValueError: first line" in output
    assert (sweep.folder / "kind-first" / ".hydra" / "overrides.yaml").exists()


def test_a_fault_that_lets_no_job_begin_is_reported(make_sweep) -> None:
    sweep = make_sweep("first")
    sweep.overrides.append("absent=1")
    with pytest.raises(UserError, match=r"no job could start:(.|\n)*absent"):
        run_sweep(sweep, Machine(1, [], 1), None, lambda name, entry: None)


def test_two_sweeps_in_one_folder_are_refused(make_sweep) -> None:
    sweep = make_sweep("first")
    sweep.folder.mkdir()
    with FileLock(sweep.folder / ".sweep.lock"), pytest.raises(UserError, match="another sweep is running"):
        run_sweep(sweep, Machine(1, [], 1), None, lambda name, entry: None)


@pytest.mark.parametrize(
    ("jobs", "asked", "cores", "expected"),
    [
        (12, None, 2, (2, 1)),  # one on each core
        (12, None, 32, (8, 4)),  # at most eight, which share the cores
        (1, None, 4, (1, 4)),
        (12, 1, 4, (1, 4)),
        (12, 6, 4, (6, 1)),
    ],
)
def test_jobs_at_once_share_the_cores(monkeypatch, jobs, asked, cores, expected) -> None:
    monkeypatch.setattr(run, "cpu_count", lambda: cores)
    machine = Machine.of_this_one(jobs, asked, {"cpu"})
    assert (machine.at_once, machine.threads) == expected
    assert machine.devices == []


@pytest.mark.parametrize(
    ("visible", "count", "expected"), [(None, 2, ["0", "1"]), ("5,7", 2, ["5", "7"]), ("", 0, [])]
)
def test_one_job_runs_on_each_visible_gpu(monkeypatch, visible, count, expected) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: count)
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    machine = Machine.of_this_one(12, None, {"auto", "cpu"})
    assert machine.devices == expected
    if expected:
        assert machine.at_once == len(expected)
