from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import OmegaConf

from mllmrec.errors import ConfigError
from mllmrec.sweeping import callback
from mllmrec.sweeping.callback import SweepCallback

CLAIM = """
import os, sys
from pathlib import Path
from mllmrec.sweeping.local import claim_device
claim_device(Path(sys.argv[1]), ["3", "5"], int(sys.argv[2]))
print(os.environ["CUDA_VISIBLE_DEVICES"], flush=True)
sys.stdin.read()
"""
FAMILY = """
import subprocess, sys, time
child = "from mllmrec.sweeping.local import end_with_parent; end_with_parent(); print('ready', flush=True); import time; time.sleep(60)"
started = subprocess.Popen([sys.executable, "-c", child], stdout=subprocess.PIPE, text=True)
started.stdout.readline()
print(started.pid, flush=True)
time.sleep(60)
"""


def claimed(folder: Path, slots: int) -> tuple[subprocess.Popen[str], str]:
    process = subprocess.Popen(
        [sys.executable, "-c", CLAIM, str(folder), str(slots)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    return process, process.stdout.readline().strip()


def test_processes_at_once_have_devices_of_their_own_and_give_them_back(tmp_path: Path) -> None:
    first, device = claimed(tmp_path, 3)
    second, other = claimed(tmp_path, 3)
    third, shared = claimed(tmp_path, 3)
    # Two devices, three slots: the third shares the first device.
    assert (device, other, shared) == ("3", "5", "3")
    second.kill()
    second.wait()
    fourth, freed = claimed(tmp_path, 3)
    assert freed == "5"
    for process in (first, third, fourth):
        process.communicate("")


@pytest.mark.skipif(os.name != "posix", reason="processes have no parents elsewhere")
def test_a_process_ends_with_the_one_that_started_it() -> None:
    parent = subprocess.Popen([sys.executable, "-c", FAMILY], stdout=subprocess.PIPE, text=True)
    child = int(parent.stdout.readline())
    os.kill(child, 0)
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 20
    while _lives(child) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not _lives(child)


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(callback, "end_with_parent", lambda: None)
    folder = tmp_path / "job"
    folder.mkdir()
    return OmegaConf.create(
        {"hydra": {"sweep": {"dir": str(tmp_path)}, "runtime": {"output_dir": str(folder)}}}
    )


def test_what_ended_is_told_with_its_value(tmp_path: Path, config) -> None:
    around = SweepCallback()
    around.on_job_start(config)
    around.on_job_end(config, JobReturn(status=JobStatus.COMPLETED, _return_value=0.25))
    entry = json.loads((tmp_path / "ended.jsonl").read_text(encoding="utf-8"))
    assert (entry["objective"], entry["error"]) == (0.25, None)
    assert not (tmp_path / "job" / "failed.json").exists()


@pytest.mark.parametrize("finished_before", [False, True])
def test_a_job_that_its_checks_refuse_failed_and_takes_nothing_with_it(
    tmp_path: Path, config, finished_before: bool
) -> None:
    if finished_before:
        (tmp_path / "job" / "finished.json").write_text('{"config": "a", "objective": 1.0}', encoding="utf-8")
    around = SweepCallback()
    around.on_job_start(config)
    around.on_job_end(
        config, JobReturn(status=JobStatus.FAILED, _return_value=ConfigError(["a=1: too small"]))
    )
    # The finished job had other settings; the settings of the refused job are not in its folder.
    assert (tmp_path / "job" / "finished.json").exists() == finished_before
    assert (tmp_path / "job" / "failed.json").exists() == (not finished_before)
    entry = json.loads((tmp_path / "ended.jsonl").read_text(encoding="utf-8"))
    assert (entry["objective"], entry["error"]) == (None, "the configuration has a fault: a=1: too small")


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")
    # Killed, but its new parent has not waited for it yet.
    return not (status.exists() and status.read_text().rsplit(")", 1)[1].split()[0] == "Z")
