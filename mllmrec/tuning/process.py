"""The process of one trial: ``python -m mllmrec.train`` as a multirun of one job, by any of Hydra's launchers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from joblib import cpu_count

from mllmrec.cache import atomic_path
from mllmrec.config.typed import quoted
from mllmrec.sweeping.callback import ENDED
from mllmrec.sweeping.jobs import ROOT
from mllmrec.tuning.callback import GIVEN_UP, TrialCallback
from mllmrec.tuning.plan import ALWAYS, Search

COMMAND = [sys.executable, "-m", f"mllmrec.{ROOT}", "--multirun"]
OUTPUT = "output.log"  # what a trial prints, in its folder
WRONG_USE = 2


class TrialProcess:
    """A trial that runs, and may have to be started more than once.

    Args:
        search: the trial's search.
        name: of the trial's run folder.
        overrides: the values of the axes.
        devices: values of ``CUDA_VISIBLE_DEVICES``; empty for the CPU.
    """

    def __init__(self, search: Search, name: str, overrides: Sequence[str], devices: Sequence[str]) -> None:
        self.folder = search.folder / name
        self.starts = 0
        self.given_up = False
        self._ended_path = search.folder / ENDED
        self._command = [*COMMAND, *_overrides(search, name, overrides, devices)]
        self._environment = dict(os.environ)
        if search.here and search.settings.jobs > 1 and "OMP_NUM_THREADS" not in os.environ:
            # More threads than cores slow each other down several times over.
            threads = str(max(1, cpu_count() // search.settings.jobs))
            self._environment |= {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
        self._began = time.monotonic()
        self.folder.mkdir(parents=True, exist_ok=True)
        # From an earlier call that gave the trial up and could not record it.
        (self.folder / GIVEN_UP).unlink(missing_ok=True)
        self.start()

    def start(self) -> None:
        """Start the process; the run goes on if an earlier process left one."""
        self.starts += 1
        self._before = self._ended_path.stat().st_size if self._ended_path.exists() else 0
        with (self.folder / OUTPUT).open("ab") as output:
            self._process = subprocess.Popen(
                self._command, env=self._environment, stdout=output, stderr=subprocess.STDOUT
            )

    @property
    def seconds(self) -> float:
        """Since the first start."""
        return time.monotonic() - self._began

    def ended(self) -> bool:
        """Whether the process has ended."""
        return self._process.poll() is not None

    @property
    def killed(self) -> bool:
        """Whether the process ended in the middle: it was killed, or its machine failed."""
        return self._process.returncode not in (0, WRONG_USE)

    def entry(self) -> dict[str, Any] | None:
        """What the job said at its end: ``objective``, or ``error``; None if it said nothing."""
        if not self._ended_path.exists():
            return None
        with self._ended_path.open("rb") as stream:
            stream.seek(self._before)
            lines = stream.read().splitlines()
        entries = [json.loads(line) for line in lines]
        return next((one for one in entries if Path(one["folder"]).name == self.folder.name), None)

    def give_up(self) -> None:
        """Ask the job to end, on whatever machine it runs."""
        self.given_up = True
        with atomic_path(self.folder / GIVEN_UP) as temporary:
            temporary.write_text("The search ended this trial early.\n", encoding="utf-8")

    def last_words(self) -> str:
        """What the process said of its error, or else the last line that it printed."""
        text = (self.folder / OUTPUT).read_text(encoding="utf-8", errors="replace")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        told = [number for number, line in enumerate(lines) if ": error: " in line]
        if not told:
            return (lines or [""])[-1]
        error = lines[told[-1]].split(": error: ", 1)[1]
        # A list of faults follows a colon.
        return (
            f"{error} {lines[told[-1] + 1]}" if error.endswith(":") and told[-1] + 1 < len(lines) else error
        )

    def terminate(self) -> None:
        """Ask the process to end."""
        self._process.terminate()

    def wait(self, seconds: float) -> None:
        """Wait for the process, and kill it if it takes longer."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()


def _overrides(search: Search, name: str, overrides: Sequence[str], devices: Sequence[str]) -> list[str]:
    """The overrides of one trial."""
    callback = "+hydra.callbacks.sweep"
    added = [
        "hydra.sweeper.params=null",  # the axes have become values
        f"hydra.sweep.dir={quoted(str(search.folder))}",
        f"hydra.sweep.subdir={quoted(name)}",
        f"{callback}._target_={TrialCallback.__module__}.{TrialCallback.__name__}",
        f"{callback}.devices=[{','.join(map(quoted, devices))}]",
        f"{callback}.slots={search.settings.jobs}",
    ]
    flags = ["--config-dir", os.path.abspath(search.config_dir)] if search.config_dir else []
    own = [text for text in search.fixed if not text.startswith("hydra.sweep.dir=")]
    return [*own, *overrides, *ALWAYS, *added, *flags]
