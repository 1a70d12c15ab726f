"""The table and the picture of ``./sweep.sh variants``: every system beside plain GRPO and beside the SFT that it began with.

    python experiments/variants_table.py sweep=sweeps/variants-small results=experiments/results/variants_small.parquet
    python experiments/variants_table.py results=experiments/results/variants_small.parquet picture=experiments/variants.png

The first command adds the sweep's finished jobs to a small file: the rank of each user's target, job by job. The second needs only
that file. Differences are paired by user and seed; their intervals are over users and seeds together. ``weights=last`` ranks with
the weights after the last step, ``kept`` with those that held-out users chose, which may be SFT's.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from command_line import WrongUse, read_settings

from mllmrec.cache import atomic_path
from mllmrec.errors import UserError
from mllmrec.evaluation.intervals import crossed_interval
from mllmrec.evaluation.metrics import per_user_metrics
from mllmrec.evaluation.records import read_stage, stages_in
from mllmrec.reporting.runs import Run, find_jobs

METRIC, PLAIN = "NDCG@3", "grpo"
BEFORE = ("warmup", "sft")  # phases whose cost is not a system's own
WEIGHTS = ("last", "kept")
SCHEMA = pa.schema(
    [
        ("system", pa.string()),
        ("seed", pa.int64()),
        ("asks", pa.string()),  # what the ranking is: how it is done, and after which phases
        ("tokens", pa.int64()),  # generated after SFT
        ("seconds", pa.float64()),  # of the phases after SFT
        ("weights", pa.string()),  # sft, last or kept
        (
            "ranks",
            pa.list_(pa.uint16()),
        ),  # of the targets of the users in the file's metadata; 0 if not ranked
    ]
)


@dataclass(frozen=True)
class Settings:
    """The command line."""

    sweep: str = ""  # folder of the sweep; empty if the results are enough
    results: str = ""  # a Parquet file that the sweep's finished jobs are added to; empty for none
    picture: str = ""  # a PNG file; empty for none
    weights: str = "last"  # kept: those that held-out users chose; last: those after the last step
    seeds: str = ""  # such as 0,1; empty for all


@dataclass(frozen=True)
class Job:
    """One finished job."""

    system: str
    seed: int
    asks: str
    tokens: int
    seconds: float
    ranks: Mapping[str, np.ndarray]  # weights → (U,), 0 for a target that was not ranked

    def values(self, weights: str) -> np.ndarray:
        """(U,) NDCG@3."""
        ranks = self.ranks[weights].astype(np.float64)
        return per_user_metrics(np.where(ranks == 0, np.nan, ranks), [3])[METRIC]


def read_job(run: Run, users: list[str]) -> Job:
    """A finished job of the sweep. ``users`` is filled by the first job, and the others agree with it."""
    folder, metrics, last = run.path, run.metrics, run.stages[-1]
    stages = stages_in(folder / "per_user.parquet")
    # Where the last weights were kept, there is no second ranking.
    of = {"kept": last, "last": f"{last}_last" if f"{last}_last" in stages else last}
    if "sft" in metrics["stages"] and last != "sft":
        of["sft"] = "sft"
    ranks = {}
    for weights, stage in of.items():
        records = read_stage(folder / "per_user.parquet", stage)
        place = {str(user): number for number, user in enumerate(records.user_ids)}
        users.extend([] if users else sorted(place))
        if sorted(place) != users:
            raise WrongUse(f"{folder}: {stage} ranked other users than the first job")
        found = np.nan_to_num(np.asarray(records.ranks, dtype=np.float64))
        ranks[weights] = found[[place[user] for user in users]].astype(np.uint16)
    own = [cost for name, cost in metrics["cost"].items() if name not in BEFORE]
    return Job(
        run.group_choices["variant"],
        run.seed,
        f"{metrics['protocol']['ranking']}, {'SFT' if 'sft' in metrics['stages'] else 'no SFT first'}",
        sum(int(cost.get("generated_tokens", 0)) for cost in own),
        sum(float(cost["seconds"]) for cost in own),
        ranks,
    )


def read_results(path: Path) -> tuple[list[Job], list[str]]:
    """The jobs of a results file, and their users."""
    table = pq.read_table(path)
    users = json.loads(table.schema.metadata[b"users"])
    jobs: dict[tuple[str, int], Job] = {}
    for row in table.to_pylist():
        ranks = np.asarray(row["ranks"], dtype=np.uint16)
        key = (row["system"], row["seed"])
        if key not in jobs:
            jobs[key] = Job(*key, row["asks"], row["tokens"], row["seconds"], {})
        jobs[key] = Job(
            *key, row["asks"], row["tokens"], row["seconds"], {**jobs[key].ranks, row["weights"]: ranks}
        )
    return list(jobs.values()), users


def write_results(path: Path, jobs: Sequence[Job], users: Sequence[str]) -> None:
    """Write a results file: one row for each job and kind of weights."""
    rows = [
        {
            **{name: getattr(job, name) for name in ("system", "seed", "asks", "tokens", "seconds")},
            "weights": weights,
            "ranks": ranks.tolist(),
        }
        for job in sorted(jobs, key=lambda job: (job.system, job.seed))
        for weights, ranks in sorted(job.ranks.items())
    ]
    schema = SCHEMA.with_metadata({"users": json.dumps(list(users))})
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), temporary, compression="zstd")


def gathered(given: Settings) -> tuple[list[Job], list[str]]:
    """All finished jobs, of the results file and of the sweep, and the names of jobs that have not finished."""
    jobs: dict[tuple[str, int], Job] = {}
    users: list[str] = []
    unfinished: list[str] = []
    results = Path(given.results) if given.results else None
    if results is not None and results.exists():
        earlier, users = read_results(results)
        jobs.update({(job.system, job.seed): job for job in earlier})
    if given.sweep:
        try:
            found = find_jobs(given.sweep)
        except UserError as error:
            raise WrongUse(str(error)) from None
        unfinished = [job.path.name for job in found.unfinished]
        read: dict[tuple[str, int], Path] = {}
        for run in found.runs:
            job = read_job(run, users)
            key = (job.system, job.seed)
            if key in read:
                raise WrongUse(
                    f"{read[key]} and {run.path} are both variant={job.system} seed={job.seed}: which of them counts? Move one away"
                )
            read[key], jobs[key] = run.path, job
        if results is not None and jobs:
            write_results(results, list(jobs.values()), users)
    kept = [job for job in jobs.values() if not given.seeds or str(job.seed) in given.seeds.split(",")]
    if not any(job.system == PLAIN for job in kept):
        raise WrongUse(f"no finished job of variant={PLAIN}: give sweep=FOLDER, or results=FILE")
    return kept, unfinished


@dataclass(frozen=True)
class Difference:
    """A paired difference."""

    mean: float
    interval: tuple[float, float]  # over users and seeds
    by_seed: tuple[float, ...]

    @classmethod
    def of(cls, values: np.ndarray) -> Difference:
        """From (S, U) differences."""
        return cls(
            float(values.mean()), crossed_interval(values, seed=0), tuple(values.mean(axis=1).tolist())
        )

    def __str__(self) -> str:
        low, high = self.interval
        text = minus(f"{self.mean:+.3f} [{low:+.3f}, {high:+.3f}]")
        return f"**{text}**" if low > 0 or high < 0 else text


def minus(text: str) -> str:
    """Hyphens as minus signs."""
    return text.replace("-", "−")


@dataclass(frozen=True)
class Row:
    """A system in the table."""

    system: str
    asks: str
    mean: float
    versus: Difference  # minus plain GRPO
    gained: Difference | None  # minus the SFT that it began with
    tokens: float
    pace: float  # seconds, of plain GRPO's


def rows(jobs: Sequence[Job], weights: str) -> Iterator[Row]:
    """Each system over the seeds that plain GRPO has, too."""
    plain = {job.seed: job for job in jobs if job.system == PLAIN}
    for system in dict.fromkeys(job.system for job in jobs):
        own = sorted(
            (job for job in jobs if job.system == system and job.seed in plain), key=lambda job: job.seed
        )
        if not own:
            continue
        beside = [plain[job.seed] for job in own]
        values = np.stack([job.values(weights) for job in own])
        before = np.stack([job.values("sft") for job in own]) if "sft" in own[0].ranks else None
        yield Row(
            system,
            own[0].asks,
            float(values.mean()),
            Difference.of(values - np.stack([job.values(weights) for job in beside])),
            None if before is None else Difference.of(values - before),
            float(np.mean([job.tokens for job in own])),
            float(np.median([job.seconds for job in own]) / np.median([job.seconds for job in beside])),
        )


def main() -> int:
    """Print the table."""
    try:
        given = read_settings(Settings, sys.argv[1:], {"weights": WEIGHTS})
        jobs, unfinished = gathered(given)
    except WrongUse as error:
        print(error, file=sys.stderr)
        return 2
    found = sorted(rows(jobs, given.weights), key=lambda row: (row.asks, -row.mean))
    for asks in dict.fromkeys(row.asks for row in found):
        print(f"\nRanked by {asks}:\n")
        print(
            "| system | NDCG@3 | − plain GRPO | seed by seed | − its own SFT | tokens | seconds, of plain GRPO |"
        )
        print("|---|---|---|---|---|---|---|")
        for row in (row for row in found if row.asks == asks):
            seeds = minus(", ".join(f"{mean:+.3f}" for mean in row.versus.by_seed))
            print(
                f"| {row.system} | {row.mean:.3f} | {row.versus} | {seeds} | {row.gained or ''} | {row.tokens:,.0f} "
                f"| {row.pace:.1f} |"
            )
    print(f"\nNot finished: {', '.join(unfinished) or 'none'}")
    if given.picture:
        asks = next(row.asks for row in found if row.system == PLAIN)
        draw([row for row in found if row.asks == asks], Path(given.picture))
    return 0


def draw(shown: Sequence[Row], path: Path) -> None:
    """A point and an interval for each system that answers plain GRPO's question."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    ordered = sorted(shown, key=lambda row: row.versus.mean)
    figure, axes = pyplot.subplots(figsize=(7, 0.17 * len(ordered) + 1), layout="constrained")
    means = np.array([row.versus.mean for row in ordered])
    bounds = np.array([row.versus.interval for row in ordered])
    sides: Any = [means - bounds[:, 0], bounds[:, 1] - means]
    axes.errorbar(means, range(len(ordered)), xerr=sides, fmt="o", ms=3, lw=1)
    axes.axvline(0, color="grey", lw=0.8)
    axes.set_yticks(range(len(ordered)), [row.system for row in ordered], fontsize=7)
    axes.set_xlabel("NDCG@3 minus plain GRPO's, 95 % interval over users and seeds")
    figure.savefig(path, dpi=140)


if __name__ == "__main__":
    sys.exit(main())
