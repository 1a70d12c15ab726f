"""The real command runs a sweep of one-second jobs in its own folder."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

# No language model and no images, since the tests are about the sweep.
LIGHT = """\
# @package _global_
defaults:
  - override /method: popularity
  - override /caption: none
  - override /cot_policy: none
  - override /logger: none
  - override /trainer: cpu

dataset:
  num_users: 60
  num_items: 40
heldout:
  users: 0
eval:
  num_negatives: 9
  ks: [1, 3]
  resamples: 20
hydra:
  sweeper:
    params:
"""
Command = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def write_experiment(tmp_path: Path) -> Callable[..., None]:
    """``write_experiment(name, {axis: values})`` writes a light experiment below ``extra``."""

    def write(name: str, axes: dict[str, str]) -> None:
        path = tmp_path / "extra" / "experiment" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = "".join(f"      {key}: {values}\n" for key, values in axes.items())
        path.write_text(LIGHT + lines, encoding="utf-8")

    return write


@pytest.fixture
def start(tmp_path: Path) -> Command:
    """Start ``python -m mllmrec.sweep`` in the test's folder."""

    def run(*arguments: str) -> subprocess.Popen[str]:
        extra = ["--config-dir", "extra"] if (tmp_path / "extra").exists() else []
        path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
        return subprocess.Popen(
            [sys.executable, "-m", "mllmrec.sweep", *arguments, *extra],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": path, "MLLMREC_CACHE": "cache"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return run


@pytest.fixture
def finish(start: Command) -> Callable[..., tuple[int, str, str]]:
    """Run the command to its end: exit status, standard output, standard error."""

    def run(*arguments: str) -> tuple[int, str, str]:
        process = start(*arguments)
        output, errors = process.communicate(timeout=300)
        return process.returncode, output, errors

    return run
