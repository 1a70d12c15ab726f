"""Kills sweeps and searches under each engine, starts the same command again, and says what was lost.

    python experiments/sweep_faults.py engines=joblib,submitit_local,ray,optuna faults=driver,worker,leave
    python experiments/sweep_faults.py engines=slurm faults=driver,worker,leave,limit,requeued,node
    mount -t tmpfs -o size=64m tmpfs /mnt/tiny
    python experiments/sweep_faults.py engines=joblib faults=full disk=/mnt/tiny

Each line is one engine and one fault. Two small jobs run one after the other, and the fault meets the second before its sixth
step, after the first has finished. ``driver`` kills the command that was typed (SIGKILL), ``worker`` kills the process of the job
(SIGKILL), and ``leave`` asks the job to leave as a cluster does (SIGUSR2 under submitit, SIGTERM elsewhere). Three faults need a Slurm
cluster whose operator runs the script: ``limit`` lowers the job's time limit to a minute, ``requeued`` puts the job back into the
queue as pre-emption does, and ``node`` takes the job's node down and brings it back. ``full`` fills a small disk that holds the sweep's folder,
and makes room again once the command has ended. The line says how often
the command was typed, how many finished jobs were run again, at which step the second job went on, and whether everything that
it wrote equals the same job left alone.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from command_line import WrongUse, read_settings
from full_disk import MOST, filled
from safetensors.torch import load_file

from mllmrec.jobs.compared_runs import compared_runs
from mllmrec.run.folder import RunFolder

STEP = 6  # the fault comes before this step
SMALL = [
    *("method=sasrec", "trainer=cpu", "logger=csv", "dataset.num_users=60", "dataset.num_items=40"),
    *("method.recommender.max_epochs=3", "method.recommender.batch_size=16", "method.recommender.every=1"),
    *("checkpoint.steps=1", "heldout.users=20", "eval.max_users=20", "eval.resamples=20"),
]
AXIS = "method.recommender.learning_rate"
VALUES = ("0.001", "0.002")
# Around a job: in the second job, once, the fault that the script asks for.
TROUBLE = f"""
import os, time
from pathlib import Path
from hydra.experimental.callback import Callback

class Trouble(Callback):
    def __init__(self, number, folder, together, seconds):
        self.number, self.folder, self.together, self.seconds = number, Path(folder), together, seconds

    def finished(self):
        return list(self.folder.glob("sweep/*/finished.json"))

    def on_job_start(self, config, **kwargs):
        from mllmrec.run.progress import SavedProgress
        between, met = SavedProgress.between, self.folder / "met"

        def troubled(progress, step, **more):
            while self.together and step == {STEP} and config.{AXIS} == {VALUES[1]} and not self.finished():
                time.sleep(0.05)
            if step == {STEP} and self.finished() and not met.exists():
                met.write_text(str(config.{AXIS}))
                if self.number:
                    os.kill(os.getpid(), self.number)
                else:
                    time.sleep(self.seconds)
            between(progress, step, **more)

        SavedProgress.between = troubled
"""
FAULTS = ("driver", "worker", "leave")
FULL = "full"
OF_SLURM = ("limit", "requeued", "node")  # what the script does to the job, not the job to itself
TOGETHER = ("submitit_local",)  # engines that start all jobs at once
ENGINES = ("joblib", "submitit_local", "slurm", "ray", "optuna")
MORE = {
    "joblib": ["jobs=1"],
    "submitit_local": [],
    "ray": ["jobs=1", "hydra.launcher.init.num_cpus=1"],
    "slurm": [
        *("jobs=1", "hydra.launcher.gpus_per_node=null", "hydra.launcher.cpus_per_task=1"),
        *("hydra.launcher.mem_gb=2", "hydra.launcher.timeout_min=30"),
    ],
    "optuna": [],
}


@dataclass(frozen=True)
class Settings:
    """The command line."""

    engines: str = "joblib,submitit_local,ray,optuna"
    faults: str = ",".join(FAULTS)
    folder: str = "/tmp/sweep_faults"  # of runs and caches
    disk: str = ""  # a small file system that faults=full fills


def command(engine: str, folder: Path) -> list[str]:
    """What a user types."""
    own = [
        *MORE.get(engine, []),
        f"hydra.sweep.dir={folder / 'sweep'}",
        "--config-dir",
        str(folder / "extra"),
    ]
    if engine == "optuna":
        # A sampler that tries both values, in this order.
        both = ["study.sampler._target_=optuna.samplers.BruteForceSampler", "~study.sampler.n_startup_trials"]
        return ["mllmrec.tune", *SMALL, f"{AXIS}={','.join(VALUES)}", "trials=2", *both, *own]
    return ["mllmrec.sweep", "two", "report=false", f"hydra/launcher={engine}", *own]


def prepared(folder: Path) -> Path:
    """A folder with the experiment and the fault."""
    shutil.rmtree(folder, ignore_errors=True)
    experiment = folder / "extra" / "experiment" / "two.yaml"
    experiment.parent.mkdir(parents=True)
    method = "# @package _global_\ndefaults:\n  - override /method: sasrec\n"
    axis = f"hydra:\n  sweeper:\n    params:\n      {AXIS}: {','.join(VALUES)}\n"
    experiment.write_text(method + axis, encoding="utf-8")
    (folder / "trouble.py").write_text(TROUBLE, encoding="utf-8")
    return folder


def start(engine: str, folder: Path, number: int | None, seconds: float = 15.0) -> subprocess.Popen[bytes]:
    """Type the command.

    Args:
        engine: its name.
        folder: of the experiment.
        number: the signal of the fault; 0 for a job that waits to be met, and None for no fault.
        seconds: that the job waits.
    """
    typed = [sys.executable, "-m", *command(engine, folder)]
    if engine != "optuna":
        typed += SMALL[1:]
    if number is not None:
        where = "+hydra.callbacks.trouble"
        typed += [f"{where}._target_=trouble.Trouble", f"{where}.number={number}", f"{where}.folder={folder}"]
        typed += [f"{where}.together={engine in TOGETHER}", f"{where}.seconds={seconds}"]
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    environment = {
        **os.environ,
        "PYTHONPATH": path,
        "OMP_NUM_THREADS": "1",
        "MLLMREC_CACHE": str(folder / "cache"),  # of its own: a finished phase would be taken over
    }
    with (folder / "typed.log").open("ab") as output:
        return subprocess.Popen(typed, env=environment, stdout=output, stderr=subprocess.STDOUT)


def meet_in_slurm(fault: str) -> None:
    """Do to the running job of this sweep what a cluster does."""

    def asked(*words: str) -> str:
        return subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()

    listed = asked("squeue", "--noheader", "--name=mllmrec", "--states=RUNNING", "--format=%i %N")
    job, node = listed.splitlines()[0].split()
    if fault == "limit":
        asked("scontrol", "update", f"JobId={job}", "TimeLimit=1")
    elif fault == "requeued":
        asked("scontrol", "requeue", job)
    else:
        asked("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=fault")
        time.sleep(5)
        # With ReturnToService=2 it may have come back by itself, and then there is nothing to resume.
        subprocess.run(["scontrol", "update", f"NodeName={node}", "State=RESUME"], capture_output=True)


def run_of(folder: Path, value: str) -> Path:
    """The run folder of the job with this learning rate."""
    return next(path.parent for path in folder.glob("sweep/*/finished.json") if rate(path.parent) == value)


def rate(run: Path) -> str:
    """The learning rate of a run."""
    text = (run / ".hydra" / "overrides.yaml").read_text(encoding="utf-8")
    return re.findall(rf"{re.escape(AXIS)}=(\S+)", text)[-1]


def finished(folder: Path) -> dict[str, int]:
    """Jobs that finished, and when."""
    return {path.parent.name: path.stat().st_mtime_ns for path in folder.glob("sweep/*/finished.json")}


def equal(one: Path, other: Path) -> bool:
    """Whether two runs wrote the same results, logs and weights."""
    if any(found.differing for found in compared_runs(RunFolder(one), RunFolder(other))):
        return False
    sides = [{path.name: load_file(path) for path in run.rglob("*.safetensors")} for run in (one, other)]
    return sides[0].keys() == sides[1].keys() and all(
        weight.equal(sides[1][file][name]) for file, held in sides[0].items() for name, weight in held.items()
    )


def row(engine: str, fault: str, root: Path, disk: Path) -> tuple[str, bool]:
    """Run one fault; a row of the table, and whether nothing was lost.

    Args:
        engine: its name.
        fault: its name.
        root: folder for all that is written.
        disk: the file system that `FULL` fills.
    """
    alone = "optuna" if engine == "optuna" else "basic"  # searches rank other users than sweeps
    whole = root / f"alone-{alone}"
    if len(finished(whole)) < 2 and start(alone, prepared(whole), None).wait() != 0:
        raise SystemExit(f"{alone}: failed without a fault, see {whole / 'typed.log'}")
    folder = prepared(root / f"{engine}-{fault}")
    if fault == FULL:
        sweep = disk / folder.name
        shutil.rmtree(sweep, ignore_errors=True)
        sweep.mkdir()
        (folder / "sweep").symlink_to(sweep)
    asked = signal.SIGUSR2 if engine in ("submitit_local", "slurm") else signal.SIGTERM
    number = {"worker": int(signal.SIGKILL), "leave": int(asked)}.get(fault, 0)
    typed = 1
    # A cluster looks at time limits twice a minute.
    process = start(engine, folder, number, 120.0 if fault in OF_SLURM else 15.0)
    before: dict[str, int] = {}
    ballast: Path | None = None
    while process.poll() is None:
        if (folder / "met").exists() and not before:
            before = finished(folder)
            if fault == "driver":
                time.sleep(0.5)
                process.kill()
            elif fault == FULL:
                ballast = filled(disk)
            elif fault in OF_SLURM:
                meet_in_slurm(fault)
        time.sleep(0.02)
    before = before or finished(folder)
    if ballast is not None:
        ballast.unlink()
    while process.wait() != 0 and typed < 4:
        if fault == "driver" and typed == 1:
            time.sleep(2)
        typed += 1
        process = start(engine, folder, None)
    after = finished(folder)
    again = sum(after.get(name) != when for name, when in before.items())
    value = (folder / "met").read_text(encoding="utf-8")
    log = (run_of(folder, value) / "run.log").read_text(encoding="utf-8")
    went_on = re.findall(r"goes on at step (\d+)", log)
    same = equal(run_of(whole, value), run_of(folder, value))
    safe = len(after) == 2 and again == 0 and same
    cells = [
        engine,
        fault,
        str(typed),
        f"{again} of {len(before)}",
        ", ".join(went_on) or "none: it was left alone",
        "equal" if same else "DIFFERS",
    ]
    return f"| {' | '.join(cells)} |", safe


def main() -> int:
    """Run all faults; status 1 if anything was lost."""
    try:
        given = read_settings(
            Settings, sys.argv[1:], {"engines": ENGINES, "faults": (*FAULTS, FULL, *OF_SLURM)}
        )
        if set(given.faults.split(",")) & set(OF_SLURM) and given.engines != "slurm":
            raise WrongUse(f"faults={','.join(OF_SLURM)} need engines=slurm")
        disk = Path(given.disk or "/")
        if FULL in given.faults.split(",") and shutil.disk_usage(disk).total > MOST:
            raise WrongUse(
                f"disk={given.disk}: must be a file system of at most a gigabyte, for it is filled"
            )
    except WrongUse as error:
        print(error, file=sys.stderr)
        return 2
    print(
        "| engine | fault | commands typed | finished jobs run again | the other went on at step | result |"
    )
    print("|---|---|---|---|---|---|", flush=True)
    lost = 0
    for engine in given.engines.split(","):
        for fault in given.faults.split(","):
            line, safe = row(engine, fault, Path(given.folder).resolve(), disk)
            lost += not safe
            print(line, flush=True)
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
