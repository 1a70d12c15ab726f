"""A process of a job on several devices is killed: the job ends soon, and goes on to equal numbers."""

from __future__ import annotations

import subprocess
import sys
import time

import psutil
import pytest
from safetensors.torch import load_file
from test_many_devices import JOB

from mllmrec.run.folder import RunFolder


@pytest.mark.benchmark
@pytest.mark.parametrize("trainer", ["ddp", "fsdp2", "deepspeed"])
@pytest.mark.parametrize("who", ["leader", "follower"])
def test_a_killed_process_ends_the_job_which_goes_on(overrides, tmp_path, who, trainer):
    if trainer == "deepspeed":
        pytest.importorskip("deepspeed", reason="pip install deepspeed")
    common = [*overrides, *JOB, "grpo.max_steps=5", "resume=auto", f"trainer={trainer}"]
    command = [sys.executable, "-m", "mllmrec.train", *common, "trainer.accelerator=cpu"]
    whole, place = tmp_path / "whole", tmp_path / "killed"
    subprocess.run([*command, f"hydra.run.dir={whole}"], check=True, capture_output=True, timeout=300)
    with (tmp_path / "said").open("w") as said:
        job = subprocess.Popen([*command, f"hydra.run.dir={place}"], stdout=said, stderr=said)
        while not (place / "resume" / "grpo" / "step-000000002.json").exists():
            assert job.poll() is None
            time.sleep(0.02)
        (other,) = psutil.Process(job.pid).children()
        (job if who == "leader" else other).kill()
        before = time.monotonic()
        status = job.wait(20)
        psutil.wait_procs([other], timeout=20)
    assert time.monotonic() - before < 20
    assert not other.is_running() or other.status() == psutil.STATUS_ZOMBIE
    if who == "follower":
        last = (tmp_path / "said").read_text().strip().splitlines()[-1]
        assert status == 2
        assert "process 1 of this job ended by SIGKILL" in last
        assert "resume=auto" in last
    subprocess.run([*command, f"hydra.run.dir={place}"], check=True, capture_output=True, timeout=300)
    assert "grpo: goes on at step" in (place / "run.log").read_text()
    assert RunFolder(place).metrics()["stages"] == RunFolder(whole).metrics()["stages"]
    weights, alone = (load_file(run / "model" / "model.safetensors") for run in (place, whole))
    assert max(float((weights[name] - alone[name]).abs().max()) for name in alone) < 1e-6
