from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

JOB = """
import os

from mllmrec.cli import run_app
from mllmrec.errors import ConfigError

class Unsendable(Exception):
    def __init__(self, *, status):
        super().__init__(f"answered {status}")

def work(cfg):
    if cfg.kind == "unsendable":
        raise Unsendable(status=503)
    if cfg.kind == "refused":
        raise ConfigError(["a=1: too small", "b=2: too large"])
    os.write(1, f"done {cfg.kind}\\n".encode())  # at once: lines of two processes do not mix
    return 1.0

if __name__ == "__main__":
    run_app(work, "train")
"""
ROOT = "kind: null\nhydra: {sweep: {dir: sweep, subdir: '${kind}'}, run: {dir: out}}\n"


def multirun(folder: Path, kinds: str) -> subprocess.CompletedProcess[str]:
    (folder / "job.py").write_text(JOB, encoding="utf-8")
    (folder / "small.yaml").write_text(ROOT, encoding="utf-8")
    command = [sys.executable, "job.py", "--config-path", str(folder), "--config-name", "small", "--multirun"]
    return subprocess.run(
        [*command, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", f"kind={kinds}"],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_an_exception_that_cannot_be_sent_stops_no_other_job(tmp_path) -> None:
    ended = multirun(tmp_path, "unsendable,first,second,third,fourth,fifth")
    assert ended.returncode == 1
    for kind in ("first", "second", "third", "fourth", "fifth"):
        assert f"done {kind}" in ended.stdout
    assert "RuntimeError: Unsendable: answered 503" in ended.stderr


def test_wrong_input_is_reported_as_in_one_process(tmp_path) -> None:
    ended = multirun(tmp_path, "first,refused")
    assert ended.returncode == 2
    assert "the configuration has 2 faults:\n  - a=1: too small\n  - b=2: too large\n" in ended.stderr
