"""Does a job by two processes end as by one? Small whole jobs of each kind, compared in metrics, log and weights.

    python experiments/two_processes.py
    python experiments/two_processes.py jobs=bf16,dora_rslora

Each job runs twice, with ``trainer=cpu`` and with ``trainer=ddp`` (or ``fsdp2``, if its name says so) over gloo. A line says how far
any metric of any phase differs, the loss of any logged row relative to the loss (or to 0.001, if the loss is less), and any saved
weight. All but the first job use the policy that the first one saved, opened like any pretrained model, with the dropout of
its adapters off, since dropout is another draw in each process. The status is 1 if a job failed.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from command_line import WrongUse, read_settings
from safetensors.torch import load_file

FEW = [
    *("debug=fast", "dataset.max_users=null", "dataset.num_users=60", "dataset.num_items=80", "logger=csv"),
    *(
        "warmup.max_steps=8",
        "sft.max_steps=8",
        "grpo.max_steps=8",
        "grpo.prompts_per_step=3",
        "heldout.keep=last",
    ),
]
PRETRAINED = ["backbone=hf", "backbone.path={model}", "prompt.template=compact", "backbone.lora.dropout=0"]
SINGLE = [*PRETRAINED, "backbone.dtype=float32"]
FIRST = "from_scratch"
JOBS = {
    FIRST: [],
    "lora": SINGLE,
    "dora_rslora": [*SINGLE, "peft=dora_rslora"],
    "whole_weights": [*SINGLE, "backbone.lora=null"],
    "streambp": [*SINGLE, "engine=streambp", "engine.chunk=32"],
    "checkpointing": [*SINGLE, "backbone.gradient_checkpointing=true", "engine=plain"],
    "micro_batches": [*SINGLE, "grpo.micro_batch_size=3", "grpo.iterations=2"],
    "bf16_mixed": [*SINGLE, "trainer.precision=bf16-mixed"],
    "bf16": [*PRETRAINED, "trainer.precision=bf16-true"],
    "4bit": [*PRETRAINED, "backbone.quantization=4bit"],
    "fsdp2": [*SINGLE, "engine=plain"],
    "fsdp2_bf16": [*PRETRAINED, "engine=plain", "trainer.precision=bf16-true"],
}


@dataclass
class Settings:
    """The command line."""

    jobs: str = ",".join(JOBS)


def run_job(folder: Path, overrides: Sequence[str]) -> str:
    """Run one job; the last lines that it printed if it failed, else nothing."""
    folder.mkdir(parents=True)
    command = [sys.executable, "-m", "mllmrec.train", *FEW, *overrides, "hydra.run.dir=run"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MLLMREC_CACHE": str(folder / "cache")}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    return done.stderr[-600:] if done.returncode else ""


def metrics(run: Path) -> dict[str, float]:
    """Phase, kind of negatives and name → metric."""
    found: dict[str, float] = {}
    unread = [("", json.loads((run / "metrics.json").read_text(encoding="utf-8"))["stages"])]
    while unread:
        name, value = unread.pop()
        if isinstance(value, dict):
            unread += [(f"{name}/{key}", inner) for key, inner in value.items()]
        elif isinstance(value, (int, float)):
            found[name] = float(value)
    return found


def furthest_metric(one: Path, other: Path) -> float:
    """The largest difference of a metric."""
    sides = metrics(one), metrics(other)
    if sides[0].keys() != sides[1].keys():
        raise RuntimeError(f"{one} and {other} have other metrics")
    return max(abs(value - sides[1][name]) for name, value in sides[0].items())


def losses(run: Path) -> list[float]:
    """The logged losses, in order."""
    with (run / "log.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    return [float(text) for row in rows for name, text in row.items() if name.endswith("loss") and text]


def furthest_weight(one: Path, other: Path) -> float:
    """The largest difference of a saved weight."""
    sides = [
        {path.relative_to(run): path for path in sorted(run.rglob("*.safetensors"))} for run in (one, other)
    ]
    if not sides[0] or sides[0].keys() != sides[1].keys():
        raise RuntimeError(f"{one} and {other} saved other files of weights")
    largest = 0.0
    for name, path in sides[0].items():
        theirs = load_file(sides[1][name])
        for key, weight in load_file(path).items():
            largest = max(largest, float((weight.float() - theirs[key].float()).abs().max()))
    return largest


def line(name: str, one: Path, two: Path) -> str:
    """A row of the table."""
    pairs = list(zip(losses(one), losses(two), strict=True))
    if not pairs:
        raise RuntimeError(f"{one} logged no loss")
    furthest = max(abs(a - b) / max(abs(a), 1e-3) for a, b in pairs)
    apart = furthest_metric(one, two)
    same = "equal" if apart == 0 else f"within {apart:.1e}"
    return f"| {name} | {same} | {furthest:.1e} | {furthest_weight(one, two):.1e} |"


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns its exit status."""
    settings = read_settings(Settings, arguments, {"jobs": JOBS})
    names = [FIRST, *(name for name in settings.jobs.split(",") if name != FIRST)]
    failed = 0
    print("| job | metrics | loss, relative | weights |\n|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        model = place / FIRST / "1" / "run" / "model"
        for name in names:
            overrides = [text.replace("{model}", str(model)) for text in JOBS[name]]
            one, two = place / name / "1", place / name / "2"
            trouble = run_job(one, ["trainer=cpu", *overrides])
            strategy = "fsdp2" if name.startswith("fsdp2") else "ddp"
            trouble = trouble or run_job(two, [f"trainer={strategy}", "trainer.accelerator=cpu", *overrides])
            if trouble:
                failed += 1
                print(f"| {name} | failed | | |\n{trouble}", flush=True)
            else:
                print(line(name, one / "run", two / "run"), flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except (WrongUse, RuntimeError) as error:
        print(error, file=sys.stderr)
        sys.exit(2)
