"""Runs a planned sweep as a Hydra multirun in a separate process, and follows it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from joblib import cpu_count

from mllmrec.errors import UserError
from mllmrec.stopping import CHILDREN_SECONDS
from mllmrec.sweeping.callback import ENDED
from mllmrec.sweeping.jobs import ROOT, Sweep, launching
from mllmrec.sweeping.local import crowded, gpus

MULTIRUN = [sys.executable, "-m", f"mllmrec.{ROOT}", "--multirun"]
OUTPUT = "output.log"  # the jobs' output, in the sweep's folder
POLL_SECONDS = 0.5
MOST_ON_CPU = 8  # jobs at once by default: each holds the libraries and the data
DIED = f"its process ended in the middle (killed, or out of memory?); {OUTPUT} has its last output"


@dataclass(frozen=True)
class Machine:
    """How many jobs run at once, and on which devices.

    Attributes:
        at_once: number of jobs at once; None if another engine finds room for them.
        devices: GPUs, as ``CUDA_VISIBLE_DEVICES`` names them; empty for the CPU, and if another engine gives them.
        threads: threads of each job's arithmetic on the CPU; None if another engine decides.
    """

    at_once: int | None
    devices: list[str]
    threads: int | None

    @classmethod
    def of_this_one(cls, jobs: int, at_once: int | None, accelerators: set[str]) -> Machine:
        """One job per GPU; without a GPU one job per core, at most eight.

        Args:
            jobs: number of jobs.
            at_once: the requested number of jobs at once, or None.
            accelerators: ``trainer.accelerator`` of the jobs.
        """
        devices = [] if accelerators <= {"cpu"} else gpus()
        cores = cpu_count()
        k = min(jobs, at_once or len(devices) or min(cores, MOST_ON_CPU))
        return cls(k, devices, max(1, cores // k))

    def crowded(self) -> str | None:
        """What is wrong with so many jobs at once; None if nothing is."""
        if self.at_once is None:
            return None
        return crowded("jobs", self.at_once, len(self.devices), cpu_count())


def run_sweep(
    sweep: Sweep, machine: Machine, config_dir: str | None, tell: Callable[[str, dict[str, Any]], None]
) -> dict[str, str]:
    """Run all jobs; a job that fails does not stop the others.

    If a process is killed, its whole multirun ends. The remaining jobs then run in one multirun each.

    Args:
        sweep: the sweep to run.
        machine: how many jobs run at once, and where.
        config_dir: as in Hydra's ``--config-dir``.
        tell: called with the name of each job that ended and its line in `ENDED`.

    Returns:
        job -> first line of its error, for jobs that did not finish.

    Raises:
        UserError: another sweep runs in this folder, or no job could start.
    """
    sweep.folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(sweep.folder / ".sweep.lock")
    try:
        held = lock.acquire(timeout=0)
    except Timeout:
        raise UserError(
            f"{sweep.folder}: another sweep is running here; wait for its end, or set hydra.sweep.dir=DIR"
        ) from None
    with held:
        (sweep.folder / ENDED).unlink(missing_ok=True)
        ended: dict[str, dict[str, Any]] = {}

        def follow() -> None:
            for entry in _entries(sweep.folder / ENDED):
                name = Path(os.path.relpath(entry["folder"], sweep.folder)).as_posix()
                if name in sweep.jobs and name not in ended:
                    ended[name] = entry
                    tell(name, entry)

        flags = ["--config-dir", str(Path(config_dir).resolve())] if config_dir else []
        slots = machine.at_once or 1
        together = [*sweep.overrides, *launching(sweep, machine.at_once, slots, machine.devices)]
        _run([[*together, *flags]], 1, machine, sweep, follow)
        left = [name for name in sweep.jobs if name not in ended]
        if left and (sweep.folder / ENDED).exists():
            alone = [text for text in sweep.overrides if text.lstrip("+~").startswith(("hydra.", "hydra/"))]
            alone += launching(sweep, None if machine.at_once is None else 1, slots, machine.devices)
            commands = [[*sweep.jobs[name].overrides, *alone, *flags] for name in left]
            _run(commands, machine.at_once or MOST_ON_CPU, machine, sweep, follow)
    if not (sweep.folder / ENDED).exists():
        said = (sweep.folder / OUTPUT).read_text(encoding="utf-8", errors="replace").splitlines()
        raise UserError("no job could start:\n" + "\n".join(said[-5:]))
    errors = {name: ended[name]["error"] if name in ended else DIED for name in sweep.jobs}
    return {name: error.splitlines()[0] for name, error in errors.items() if error is not None}


def _run(
    commands: Sequence[Sequence[str]],
    at_once: int,
    machine: Machine,
    sweep: Sweep,
    follow: Callable[[], None],
) -> None:
    """Run multiruns, ``at_once`` at a time, and wait until they end."""
    # If the two numbers differ, torch takes the larger one, and threads then spin while they wait for each other.
    environment = dict(os.environ)
    if machine.threads is not None:
        threads = os.environ.get("OMP_NUM_THREADS", str(machine.threads))
        environment = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, **os.environ}
    waiting = list(commands)
    running: list[subprocess.Popen[bytes]] = []
    with (sweep.folder / OUTPUT).open("ab") as output:
        try:
            while waiting or running:
                while waiting and len(running) < at_once:
                    command = [*MULTIRUN, *waiting.pop(0)]
                    running.append(
                        subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
                    )
                time.sleep(POLL_SECONDS)
                running = [process for process in running if process.poll() is None]
                follow()
        finally:
            for process in running:
                process.terminate()
            for process in running:
                try:
                    process.wait(2 * CHILDREN_SECONDS)
                except subprocess.TimeoutExpired:
                    process.kill()


def _entries(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    whole, _, _ = path.read_bytes().rpartition(b"\n")
    return [json.loads(line) for line in whole.splitlines()]
