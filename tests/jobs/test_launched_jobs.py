"""Jobs of a multirun under other people's launchers: asked to leave or killed in the middle, they end as if left alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from mllmrec.jobs.compared_runs import compared_runs
from mllmrec.run.folder import RunFolder

JOB = [
    *("method=sasrec", "method.recommender.max_epochs=3", "method.recommender.batch_size=16"),
    *("method.recommender.every=1", "checkpoint.steps=1", "resume=auto", "skip_finished=true"),
    *("trainer=cpu", "eval.max_users=20"),
]
# Sends the job's own process a signal before its sixth step, once.
TROUBLE = """
import os, signal
from pathlib import Path
from hydra.experimental.callback import Callback

class Trouble(Callback):
    def __init__(self, number, once):
        self.number, self.once = number, Path(once)

    def on_job_start(self, config, **kwargs):
        from mllmrec.run.progress import SavedProgress
        between = SavedProgress.between

        def troubled(progress, step, **more):
            if step == 6 and not self.once.exists():
                self.once.touch()
                os.kill(os.getpid(), self.number)
            between(progress, step, **more)

        SavedProgress.between = troubled
"""
SIGKILL, SIGUSR2 = 9, 12


def launched(folder: Path, launcher: list[str], number: int, overrides: list[str]) -> Path:
    """The run folder of a job that a launcher ran and a signal met."""
    (folder / "trouble.py").write_text(TROUBLE, encoding="utf-8")
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    trouble = "+hydra.callbacks.trouble"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "mllmrec.train", "--multirun", *overrides, *JOB, *launcher),
            *(f"{trouble}._target_=trouble.Trouble", f"{trouble}.number={number}"),
            *(f"{trouble}.once={folder / 'once'}", f"hydra.sweep.dir={folder / 'sweep'}"),
        ],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (folder / "once").exists()
    return folder / "sweep" / "0"


def equal(one: Path, other: Path) -> bool:
    differing = [found.what for found in compared_runs(RunFolder(one), RunFolder(other)) if found.differing]
    weights = [{path.name: load_file(path) for path in run.rglob("*.safetensors")} for run in (one, other)]
    assert weights[0].keys() == weights[1].keys() != set()
    same = all(
        weight.equal(weights[1][file][name])
        for file, held in weights[0].items()
        for name, weight in held.items()
    )
    return same and not differing


@pytest.fixture
def whole(job, tmp_path: Path) -> Path:
    return job(tmp_path / "whole", *JOB)


def test_submitit_puts_a_job_back_that_saved_its_last_step(whole, tmp_path, overrides) -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="pip install 'mllmrec[slurm]'")
    run = launched(tmp_path, ["hydra/launcher=submitit_local"], SIGUSR2, overrides)
    log = (run / "run.log").read_text(encoding="utf-8")
    assert "sasrec: goes on at step 6" in log
    assert equal(whole, run)
    (printed,) = (tmp_path / "sweep" / ".submitit").glob("*/*_0_log.out")
    assert "Requeued job" in printed.read_text(encoding="utf-8")


def test_ray_starts_a_killed_job_again(whole, tmp_path, overrides) -> None:
    pytest.importorskip("ray", reason="pip install 'mllmrec[ray]'")
    run = launched(tmp_path, ["hydra/launcher=ray", "hydra.launcher.init.num_cpus=1"], SIGKILL, overrides)
    assert "sasrec: goes on at step 5" in (run / "run.log").read_text(encoding="utf-8")
    assert equal(whole, run)
