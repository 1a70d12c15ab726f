"""The command ``python -m mllmrec.sweep``: plans the jobs, runs them, says how each ended, and makes the report."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

from mllmrec.config.launcher_rules import unaccounted
from mllmrec.config.typed import quoted
from mllmrec.errors import UserError, choices
from mllmrec.screen.console import make_console, relative
from mllmrec.sweeping.jobs import Sweep, experiments, plan
from mllmrec.sweeping.run import OUTPUT, Machine, run_sweep

USAGE = """\
NAME
  ./sweep.sh - run a named experiment: one job for each combination of its axes

SYNOPSIS
  ./sweep.sh NAME [jobs=K] [report=false] [--config-dir DIR] [key=value ...]
  (the same: python -m mllmrec.sweep NAME ...)

DESCRIPTION
  Runs python -m mllmrec.train --multirun experiment=NAME, K jobs at a time, then
  python -m mllmrec.report on the results. A job that fails does not stop the
  others; the end of the output names it. Started again, the command runs only
  jobs that are missing or failed, or whose settings or input files have changed.

SETTINGS
  scale=small       a smaller experiment: minutes per job on two cores
  scale=amazon_beauty   the same on Amazon Beauty; with dataset.root=DIR
  jobs=K            jobs at a time (or the environment variable JOBS); by default
                    one per GPU; without a GPU one per core, at most eight
  hydra/launcher=slurm  the jobs as one array of a Slurm cluster; =ray as tasks of Ray
                    (docs/sweeps.md)
  report=false      no report at the end
  key=1,2,3         a new axis, or new values for an axis: seed=0,1
  key=value         a setting for all jobs; it becomes part of their folders' names
  hydra.sweep.dir=DIR   another folder for the sweep

EXPERIMENTS
  {experiments}

FILES
  sweeps/NAME[-SCALE]/       the sweep's folder
    KEY-VALUE+.../           run folder of one job (python -m mllmrec.train --help)
    output.log               what the jobs printed
    report/                  the report

EXIT STATUS
  0    all jobs finished
  1    some jobs did not finish, or the report failed
  2    wrong use, a folder that cannot be written, or no job could start
  130  interrupted, 143 terminated; start it again to continue
"""


def run_command(given: list[str]) -> int:
    """Run the command with the arguments after its name; return its exit status.

    Raises:
        UserError: wrong use, or no job could start.
    """
    if {"-h", "--help"} & set(given):
        known = experiments(given, flag(given, "--config-dir"))
        print(USAGE.format(experiments="\n  ".join(known)), flush=True)
        return 0
    config_dir = flag(given, "--config-dir")
    asked = _own(given, "jobs") or os.environ.get("JOBS")
    with_report = _own(given, "report") or "true"
    if not given or "=" in given[0] or given[0].startswith("-"):
        raise UserError(
            f"no experiment is named: give ./sweep.sh NAME with {choices(experiments(given, config_dir))}"
        )
    if asked is not None and not (asked.isdecimal() and int(asked) > 0):
        raise UserError(f"jobs={asked}: must be a whole number of at least 1")
    if with_report not in ("true", "false"):
        raise UserError(f"report={with_report}: must be true or false")
    name, overrides = given[0], given[1:]
    sweep = plan(name, overrides, config_dir)
    console = make_console()
    machine = _machine(sweep, int(asked) if asked else None)
    console.print(f"{name}: {_intent(sweep, machine)}", highlight=False, markup=False)
    told = machine.crowded() or unaccounted(sweep.launcher)
    if told:
        console.print(told, highlight=False, markup=False, soft_wrap=True)
    count = 0

    def tell(job: str, entry: dict[str, Any]) -> None:
        nonlocal count
        count += 1
        came_out = f"failed: {_first(entry['error'])}" if entry["error"] else f"{entry['objective']:.4f}"
        line = f"[{count}/{len(sweep.jobs)}] {job}: {came_out} ({entry['seconds']:.0f} s)"
        console.print(line, highlight=False, markup=False, soft_wrap=True)

    errors = run_sweep(sweep, machine, config_dir, tell)
    for job, error in errors.items():
        line = f"failed: {relative(sweep.folder / job)}: {error}"
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    done = len(sweep.jobs) - len(errors)
    again = "; start the same command again for the others" if errors else ""
    console.print(f"{done} of {len(sweep.jobs)} jobs finished{again}", highlight=False)
    status = 1 if errors else 0
    if with_report == "true" and done:
        command = [sys.executable, "-m", "mllmrec.report", f"runs={quoted(str(sweep.folder))}"]
        command.append(f"hydra.run.dir={quoted(str(sweep.folder / 'report'))}")
        if subprocess.run(command, check=False).returncode:
            status = 1
    return status


def _machine(sweep: Sweep, asked: int | None) -> Machine:
    if not sweep.here:
        return Machine(asked, [], None)
    accelerators = {job.config.trainer.accelerator for job in sweep.jobs.values()}
    return Machine.of_this_one(len(sweep.jobs), asked, accelerators)


def _intent(sweep: Sweep, machine: Machine) -> str:
    """What will run where, in words."""
    jobs = f"{len(sweep.jobs)} jobs in {relative(sweep.folder)}"
    at_once = "" if machine.at_once is None else f", {machine.at_once} at a time"
    output = relative(sweep.folder / OUTPUT)
    if not sweep.here:
        # Slurm and submitit write a file of output for each job.
        files = output if sweep.launcher == "ray" else relative(sweep.folder / ".submitit")
        return f"{jobs}{at_once}, by hydra/launcher={sweep.launcher}; what they print: {files}"
    threads = os.environ.get("OMP_NUM_THREADS", machine.threads)
    where = f"on GPU {', '.join(machine.devices)}" if machine.devices else f"OMP_NUM_THREADS={threads} each"
    return f"{jobs}{at_once}, {where}; what they print: {output}"


def flag(given: list[str], name: str) -> str | None:
    """Take ``--name VALUE`` or ``--name=VALUE`` out of the arguments; None if it is not there."""
    for index, text in enumerate(given):
        if text == name and index + 1 < len(given):
            del given[index]
            return given.pop(index)
        if text.startswith(f"{name}="):
            return given.pop(index).split("=", 1)[1]
    return None


def _own(given: list[str], key: str) -> str | None:
    """Take the last ``key=value`` out of the arguments."""
    values = [text.split("=", 1)[1] for text in given if text.startswith(f"{key}=")]
    given[:] = [text for text in given if not text.startswith(f"{key}=")]
    return values[-1] if values else None


def _first(text: str) -> str:
    return text.splitlines()[0]
