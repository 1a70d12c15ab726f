"""Does this checkout compute what an earlier commit computed? Small jobs of every kind, compared to the last digit.

    python experiments/same_results.py before=COMMIT
    python experiments/same_results.py before=COMMIT jobs=from_scratch,dpo

Each job runs twice: with the code of ``before``, in a git worktree of its own, and with the code here. Compares the numbers of
`metrics.json` and `log.csv`, the rankings of every user and the sampled rollouts, but not times and memory. Both use the
Python that runs this script. The status is 1 if anything differs, and the first three differences of each job are printed.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from command_line import WrongUse, read_settings

ROOT = Path(__file__).resolve().parents[1]
FEW = ["debug=fast", "dataset.max_users=null", "dataset.num_users=60", "dataset.num_items=80", "logger=csv"]
# The policy that the first job saved, opened like any pretrained model.
PRETRAINED = ["backbone=hf", "backbone.path={model}", "backbone.dtype=float32", "prompt.template=compact"]
JOBS = {
    "from_scratch": ["method=mllmrec_r1"],
    "lora": [*PRETRAINED, "backbone.lora.rank=4"],
    "whole_weights": [*PRETRAINED, "backbone.lora=null"],
    "free": ["rollout=free", "rollout.max_new_tokens=8"],
    "enumerate": ["rollout=enumerate"],
    "iterations": ["grpo.iterations=3", "grpo.micro_batch_size=3"],
    "gspo": ["loss=gspo", "grpo.iterations=2"],
    "dapo": ["loss=dapo"],
    "dr_grpo": ["advantage=dr_grpo"],
    "rloo": ["advantage=rloo"],
    "reasoning": ["cot_policy=confident", "mix_ratio=0.5", "mixing=augment"],
    "expert_iteration": ["method=expert_iteration"],
    "dpo": ["method=dpo"],
    "sft_more": ["method=sft_more"],
    "pointwise": ["method=pointwise", "eval.ranking=pointwise"],
    "item_vectors": ["method=llara"],
    "sasrec": ["method=sasrec"],
}
TIMES = ("seconds", "time")  # columns of the log
MOST_SHOWN = 3  # differences of a job


@dataclass
class Settings:
    """The command line."""

    before: str = "HEAD"  # the commit to compare with
    jobs: str = ",".join(JOBS)


@contextmanager
def checkout(commit: str, folder: Path) -> Iterator[Path]:
    """Check out a commit for the time of the block.

    Raises:
        WrongUse: git knows no such commit.
    """
    command = ["git", "-C", str(ROOT), "worktree"]
    added = subprocess.run([*command, "add", "--detach", str(folder), commit], capture_output=True, text=True)
    if added.returncode:
        raise WrongUse(f"before={commit}: {added.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run([*command, "remove", "--force", str(folder)], capture_output=True)


def run_job(code: Path, folder: Path, overrides: Sequence[str]) -> None:
    """Run one job with the code of a checkout.

    Raises:
        RuntimeError: the job failed.
    """
    command = [
        sys.executable,
        "-m",
        "mllmrec.train",
        *FEW,
        *overrides,
        "hydra.run.dir=run",
        "cache_dir=cache",
    ]
    folder.mkdir(parents=True)
    environment = {**os.environ, "PYTHONPATH": str(code), "OMP_NUM_THREADS": "1", "MLLMREC_CACHE": "cache"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-2000:]}")


def results_of(run: Path) -> Iterator[tuple[str, Any]]:
    """All numbers of a run that depend only on its code and settings, by name."""
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    for section, entries in metrics.items():
        # A section that only one of the versions knows says nothing while it is empty.
        if section != "cost" and entries:
            yield f"metrics.json {section}", entries
    with (run / "log.csv").open(encoding="utf-8", newline="") as stream:
        for number, row in enumerate(csv.DictReader(stream), start=2):
            yield f"log.csv line {number}", {key: value for key, value in row.items() if key not in TIMES}
    for name in ("per_user.parquet", "rollouts.parquet"):
        if (run / name).exists():
            for number, row in enumerate(pq.read_table(run / name).to_pylist()):
                yield f"{name} row {number}", row


def differences(before: Path, after: Path) -> list[str]:
    """Every result that two runs do not have in common, with both values; one that a single run has counts too."""
    theirs, ours = dict(results_of(before)), dict(results_of(after))
    return [
        f"{name}: {theirs.get(name)!r:.300} before, {ours.get(name)!r:.300} now"
        for name in dict.fromkeys([*theirs, *ours])
        if theirs.get(name) != ours.get(name)
    ]


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns its exit status."""
    settings = read_settings(Settings, arguments, {"jobs": JOBS})
    differing = 0
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        with checkout(settings.before, place / "checkout") as old:
            names = settings.jobs.split(",")
            if any("{model}" in text for name in names for text in JOBS[name]):
                names = ["from_scratch", *(name for name in names if name != "from_scratch")]
            model = place / "before" / "from_scratch" / "run" / "model"
            for name in names:
                overrides = [text.replace("{model}", str(model)) for text in JOBS[name]]
                for which, code in (("before", old), ("now", ROOT)):
                    run_job(code, place / which / name, overrides)
                found = differences(place / "before" / name / "run", place / "now" / name / "run")
                print(f"{name}: {f'differences: {len(found)}' if found else 'equal'}", flush=True)
                for line in found[:MOST_SHOWN]:
                    print(f"  {line}", flush=True)
                differing += bool(found)
    print(f"{len(names) - differing} of {len(names)} jobs compute the same as {settings.before}")
    return 1 if differing else 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except (WrongUse, RuntimeError) as error:
        print(error, file=sys.stderr)
        sys.exit(2)
