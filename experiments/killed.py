"""Kills a small run at random moments with SIGKILL, goes on with ``resume=auto``, and compares with an uninterrupted run.

    python experiments/killed.py kills=50 seed=0 folder=/tmp/killed

Each line is one run: how often it was killed, in which phases, and what differs from the uninterrupted run. Metrics must agree
to the last digit (but for the cost section), and so must weights, rollouts, rankings and logged rows (but for seconds).
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import psutil
import pyarrow.parquet as pq
import torch
from command_line import WrongUse, read_settings
from safetensors.torch import load_file

from mllmrec.jobs.compared_runs import compared_runs
from mllmrec.run.folder import RunFolder

SMALL = [
    *("dataset.num_users=80", "dataset.num_items=50", "eval.max_users=20", "eval.resamples=20"),
    *("eval.weighting=uniform", "heldout.users=20", "heldout.every=4", "trainer=cpu", "checkpoint.steps=2"),
    *("warmup.max_steps=8", "sft.max_steps=8", "sft.batch_size=8", "sft_more.max_steps=8"),
    *("grpo.max_steps=8", "grpo.prompts_per_step=4", "grpo.group_size=4"),
    *("dpo.max_steps=8", "pointwise.max_steps=8", "expert_iteration.max_steps=4"),
    *(
        "expert_iteration.prompts_per_round=16",
        "training_free.max_steps=8",
        "training_free.prompts_per_step=8",
    ),
]
LIBRARIES = (
    *("mllmrec.cli", "mllmrec.jobs.main", "mllmrec.jobs.language_model", "mllmrec.jobs.baseline"),
    *("mllmrec.phases.fits", "mllmrec.phases.run", "mllmrec.testing.trials", "mllmrec.config.checks"),
    *("mllmrec.build_cot", "mllmrec.train", "transformers.models.qwen3.modeling_qwen3", "matplotlib.pyplot"),
)
FIRST = (0.1, 0.0)  # the share of a training, and of build_cot's texts, before which there is no kill
REASONED = ["task=reasoned", "rollout.max_reasoning_tokens=32", "eval.max_reasoning_tokens=32"]
COT = ["dataset.num_users=400", "dataset.num_items=60"]  # for build_cot, which trains nothing
RUNS: dict[str, list[str]] = {
    "two updates with refills": ["grpo.iterations=2", "grpo.beta=0.05", "sampler=dynamic"],
    "reasoned": REASONED,
    "reasoned with sampled answers": [*REASONED, "rollout.answer=sampled"],
    "profiled": ["task=profiled", *REASONED[1:]],
    "lists": ["task=ranked_list", "reward=rank_list"],
    "free": ["rollout=free", "rollout.max_new_tokens=12"],
    "enumerate": ["rollout=enumerate"],
    "build_cot": ["cot_policy=confident", *COT],
    "build_cot refined": ["cot_policy=refined", "dataset.num_users=1500", COT[1]],
    "training-free": ["method=training_free"],
    "sasrec_text": ["method=sasrec_text", "method.recommender.max_epochs=6"],
    "sasrec": ["method=sasrec", "method.recommender.max_epochs=12"],
    "item_knn": ["method=item_knn"],
    "dpo": ["method=dpo"],
    "expert iteration": ["method=expert_iteration"],
    "lifecycle": ["variant=lifecycle"],
    "confident reasoning": ["cot_policy=confident", "mix_ratio=0.5", "mixing=augment"],
    "adaptive": ["variant=reinforce_ada", "grpo.group_size=4"],
    "difficulty_hints": ["rollout=difficulty_hints"],
    "evidence": [
        "variant=timesearch_r",
        "rollout.inner.max_reasoning_tokens=32",
        REASONED[2],
        "grpo.group_size=4",
    ],
    "history_augment": ["variant=syn_grpo"],
    "icl_seed": ["rollout=icl_seed"],
    "lines": ["variant=rank_grpo", "rollout=lines", "rollout.inner.max_new_tokens=24", "grpo.group_size=4"],
    "m_grpo": ["variant=m_grpo", "rollout.inner.max_new_tokens=12"],
    "meta": ["variant=masa", "rollout.inner.max_new_tokens=12"],
    "prefix_states": ["variant=rest_grpo", "rollout.least=0.5"],
    "rapo_buffer": ["variant=rapo"],
    "rubric_refine": ["variant=rgr_grpo"],
    "scaffold": ["variant=scaf_grpo", "rollout.warmup_steps=2"],
    "serial_exit": ["variant=s_grpo", *REASONED[1:], "grpo.group_size=4"],
    "teacher_feedback": ["variant=think_tuning", "rollout.inner.max_reasoning_tokens=32", REASONED[2]],
    "xrpo": ["variant=xrpo"],
    "xrpo_alloc": ["rollout=xrpo_alloc"],
    "default": ["eval.weighting=both"],
    "sft continued": ["method=sft_more"],
    "pointwise": ["method=pointwise"],
    "llara": ["method=llara", "method.item_vectors.max_epochs=6"],
}


@dataclass(frozen=True)
class Settings:
    """The command line."""

    kills: int = 50  # ends with the run in which there have been so many
    most: int = 2  # kills of a run
    seed: int = 0  # of the moments
    folder: str = "/tmp/killed"  # of runs and caches
    runs: str = ",".join(RUNS)  # which ones


def command(name: str, folder: Path) -> list[str]:
    """The command of a run, after ``python -m``."""
    if name.startswith("build_cot"):
        return ["mllmrec.build_cot", f"hydra.run.dir={folder}", *RUNS[name]]
    return ["mllmrec.train", f"hydra.run.dir={folder}", "resume=auto", "logger=csv", *SMALL, *RUNS[name]]


def typed(name: str, folder: Path) -> None:
    """In a process of its own: run the command. The cache is the run's own, so that a kill may meet what makes it."""
    os.environ["MLLMREC_CACHE"] = str(beside(folder, "cache"))
    with beside(folder, "log").open("ab") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    sys.argv = command(name, folder)
    import_module(sys.argv[0]).main()


def beside(folder: Path, name: str) -> Path:
    """A path next to a run's folder."""
    return folder.with_name(f"{folder.name}-{name}")


def reached(number: int, folder: Path) -> float:
    """How far a process is: seconds of a processor, which other jobs on the machine do not change, or bytes of texts."""
    if "build_cot" in folder.name:
        return float(sum(path.stat().st_size for path in beside(folder, "cache").glob("cot/*.jsonl")))
    try:
        used = psutil.Process(number).cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(used.user + used.system)


def followed(name: str, folder: Path, limit: float = float("inf")) -> tuple[int, float]:
    """Start a run, and kill it once it has got so far; its status, and how far it got."""
    # A fork has the libraries already. Their import would take most of a run's time, and nothing is written then.
    process, far = get_context("fork").Process(target=typed, args=(name, folder)), 0.0
    process.start()
    assert process.pid is not None
    while process.is_alive():
        far = max(far, reached(process.pid, folder))
        if far >= limit:
            process.kill()
        process.join(0.005)
    return int(process.exitcode or 0), far


def differences(whole: Path, killed: Path) -> list[str]:
    """What differs between two runs of `mllmrec.train`: results, logs, weights, rankings and everything written to be read."""
    found = [one.what for one in compared_runs(RunFolder(whole), RunFolder(killed)) if one.differing]
    for pattern, read in READ.items():
        sides = [
            {path.relative_to(folder): path for path in folder.rglob(pattern)} for folder in (whole, killed)
        ]
        for name in sorted({*sides[0], *sides[1]}):
            if not all(name in side for side in sides) or not same(*(read(side[name]) for side in sides)):
                found.append(str(name))
    return [*dict.fromkeys(found), *(["resume is left over"] if (killed / "resume").exists() else [])]


def of_records(path: Path) -> list[dict[str, Any]]:
    """The lines of a file of texts, but for their order, which is that of their making."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    return sorted(lines, key=lambda line: json.dumps(line, sort_keys=True))


def of_summary(path: Path) -> Any:
    """A summary of `mllmrec.build_cot` without how many texts this attempt wrote and how many it found."""
    summary = json.loads(path.read_text(encoding="utf-8"))
    for counts in summary["stages"].values():
        for name in ("written", "from_cache", "prompt_tokens", "completion_tokens"):
            counts.pop(name, None)
    counts = summary["captions"]
    for name in ("made", "cached", "from_cache", "new"):
        counts.pop(name, None)
    return summary


READ: dict[str, Callable[[Path], Any]] = {
    "*.safetensors": load_file,
    "*.parquet": lambda path: pq.read_table(path).to_pylist(),
    "prompts.md": Path.read_bytes,
    "experience/*.json": Path.read_bytes,
    "*_cot.json": Path.read_bytes,
    "*_captions.json": Path.read_bytes,
    "summary.json": of_summary,
    "*.jsonl": of_records,
}


def same(one: Any, other: Any) -> bool:
    """Whether two values are equal; tensors are compared number by number."""
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else bool(one == other)


def texts_of(folder: Path) -> list[Any]:
    """All texts in a run's cache, by file."""
    cache = beside(folder, "cache")
    return [(path.relative_to(cache), of_records(path)) for path in sorted(cache.rglob("*.jsonl"))]


def phase_of(folder: Path) -> str:
    """What a killed run was doing, as far as its files tell."""
    if "build_cot" in folder.name:
        return f"{sum(len(lines) for _, lines in texts_of(folder))} texts there"
    if (folder / "finished.json").exists():
        return "at the exit"
    found = [*folder.glob("resume/*/step-*.ckpt")]
    latest = max(found, key=lambda path: path.stat().st_mtime_ns, default=None)
    if latest is not None:
        return f"{latest.parent.name} after step {int(latest.stem.removeprefix('step-'))}"
    done = [path for path in folder.glob("resume/phases/*") if path.is_dir()]
    if done:
        return f"after phase {len(done)}, while it ranked or before a checkpoint"
    return "before a checkpoint"


def main() -> int:
    """Run the experiment; status 1 if anything differs."""
    try:
        given = read_settings(Settings, sys.argv[1:], {"runs": list(RUNS)})
    except WrongUse as error:
        print(error, file=sys.stderr)
        return 2
    for module in LIBRARIES:
        import_module(module)
    root, draw = Path(given.folder), random.Random(given.seed)
    root.mkdir(parents=True, exist_ok=True)
    names = given.runs.split(",")
    ends: dict[str, float] = {}  # how far each run gets without a kill
    failed: set[str] = set()
    killed = wrong = runs = 0
    print("| run | killed in | against the run without a kill |\n|---|---|---|", flush=True)
    while killed < given.kills and len(failed) < len(names):
        name, runs = names[runs % len(names)], runs + 1
        if name in failed:
            continue
        whole, folder = (
            root / f"{kind}-{re.sub('[^a-z0-9]+', '_', name)}" for kind in ("whole", f"killed-{runs}")
        )
        if name not in ends:
            status, ends[name] = followed(name, whole)
            if status:
                wrong += 1
                print(f"| {name} | never | FAILED without a kill: {beside(whole, 'log')} |", flush=True)
                failed.add(name)
                continue
        moments: list[str] = []
        status = -signal.SIGKILL
        while status == -signal.SIGKILL:
            more = len(moments) < given.most
            limit = (
                draw.uniform(FIRST[name.startswith("build_cot")], 1.0) * ends[name] if more else float("inf")
            )
            status, _ = followed(name, folder, limit)
            moments += [phase_of(folder)] if status == -signal.SIGKILL else []
            if (folder / "finished.json").exists():
                break
        killed += len(moments)
        moments += (
            [f"ended with {status}: {beside(folder, 'log')}"] if status not in (0, -signal.SIGKILL) else []
        )
        found = differences(whole, folder)
        found += ["texts in the cache"] if texts_of(whole) != texts_of(folder) else []
        wrong += bool(found)
        print(f"| {name} | {', '.join(moments) or 'never'} | {', '.join(found) or 'equal'} |", flush=True)
    print(f"{killed} kills of {runs} runs, of which {wrong} differ")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
