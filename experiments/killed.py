"""Kills a small run at random moments with SIGKILL, goes on with ``resume=auto``, and compares with an uninterrupted run.

    python experiments/killed.py kills=50 seed=0 folder=/tmp/killed

Each line is one run: how often it was killed, in which phases, and what differs from the uninterrupted run. Metrics must agree
to the last digit (but for the cost section), and so must weights, rollouts, rankings and logged rows (but for seconds).
"""

from __future__ import annotations

import csv
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from command_line import WrongUse, read_settings
from safetensors.torch import load_file

from mllmrec.jobs.compared_runs import compared_runs
from mllmrec.run.folder import RunFolder

SMALL = [
    *(
        "dataset.num_users=120",
        "dataset.num_items=60",
        "eval.max_users=60",
        "heldout.users=40",
        "heldout.every=8",
    ),
    *("warmup.max_steps=24", "sft.max_steps=24", "grpo.max_steps=16", "trainer=cpu", "checkpoint.steps=3"),
    *(
        "dpo.max_steps=16",
        "sft_more.max_steps=16",
        "expert_iteration.max_steps=6",
        "pointwise.max_steps=16",
        "eval.resamples=20",
    ),
]
RUNS: dict[str, list[str]] = {
    "grpo": [],
    "two updates with refills": ["grpo.iterations=2", "grpo.beta=0.05", "sampler=dynamic"],
    "sft continued": ["method=sft_more"],
    "enumerated": ["rollout=enumerate"],
    "free": ["rollout=free", "rollout.max_new_tokens=12"],
    "reasoned": ["rollout=reasoned", "cot.placement=completion", "mix_ratio=1", "eval.ranking=reasoned"],
    "profiled": ["task=profiled"],
    "dpo": ["method=dpo"],
    "expert iteration": ["method=expert_iteration"],
    "sasrec": ["method=sasrec"],
    "lifecycle": ["variant=lifecycle"],
    "rapo": ["variant=rapo"],
}


@dataclass(frozen=True)
class Settings:
    """The command line."""

    kills: int = 50
    seed: int = 0  # of the moments
    folder: str = "/tmp/killed"  # of runs and caches
    runs: str = ",".join(RUNS)  # which ones


def command(folder: Path, overrides: list[str]) -> list[str]:
    """The command of a run."""
    return [
        sys.executable,
        "-m",
        "mllmrec.train",
        f"hydra.run.dir={folder}",
        "resume=auto",
        *SMALL,
        *overrides,
    ]


def differences(whole: Path, killed: Path) -> list[str]:
    """What differs between two runs: results and logs as `mllmrec.reproduce` compares them, and weights."""
    found = [one.what for one in compared_runs(RunFolder(whole), RunFolder(killed)) if one.differing]
    weights = [
        {path.relative_to(folder): path for path in folder.rglob("*.safetensors")}
        for folder in (whole, killed)
    ]
    for name in sorted({*weights[0], *weights[1]}):
        sides = [load_file(side[name]) if name in side else {} for side in weights]
        if sides[0].keys() != sides[1].keys() or any(
            not one.equal(sides[1][key]) for key, one in sides[0].items()
        ):
            found.append(str(name))
    return [*found, *(["resume is left over"] if (killed / "resume").exists() else [])]


def phase_of(folder: Path) -> str:
    """What a killed run was doing, from the end of its log."""
    path = folder / "log.csv"
    if not path.exists():
        return "before training"
    with path.open() as stream:
        rows = list(csv.DictReader(stream))
    return rows[-1]["stage"] if rows else "before training"


def main() -> int:
    """Run the experiment; status 1 if anything differs."""
    try:
        given = read_settings(Settings, sys.argv[1:], {"runs": list(RUNS)})
    except WrongUse as error:
        print(error, file=sys.stderr)
        return 2
    root, draw, wanted = Path(given.folder), random.Random(given.seed), given.kills
    names = given.runs.split(",")
    environment = {**os.environ, "PYTHONHASHSEED": "0", "MLLMREC_CACHE": str(root / "cache")}
    killed = wrong = 0
    seconds: dict[str, float] = {}  # of each run without a kill
    runs = 0
    while killed < wanted:
        name, runs = names[runs % len(names)], runs + 1
        whole = root / f"whole-{name.replace(' ', '_')}"
        if name not in seconds:
            started = time.monotonic()
            subprocess.run(command(whole, RUNS[name]), check=True, env=environment, capture_output=True)
            seconds[name] = time.monotonic() - started
            print(f"{name}: {seconds[name]:.0f} s without a kill", flush=True)
        folder = root / f"killed-{runs}-{name.replace(' ', '_')}"
        moments: list[str] = []
        for _ in range(3):
            process = subprocess.Popen(
                command(folder, RUNS[name]),
                env=environment,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            try:
                process.wait(draw.uniform(0.25, 1.0) * seconds[name])
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
                killed += 1
                moments.append(phase_of(folder))
                continue
            break
        if process.returncode != 0:
            last = subprocess.run(
                command(folder, RUNS[name]), env=environment, capture_output=True, text=True
            )
            if last.returncode != 0:
                print(last.stderr[-2000:])
        found = differences(whole, folder)
        wrong += bool(found)
        print(
            f"{name}: killed {len(moments)} times ({', '.join(moments)}): {', '.join(found) or 'equal'}",
            flush=True,
        )
    print(f"{killed} kills, {wrong} runs differ")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
