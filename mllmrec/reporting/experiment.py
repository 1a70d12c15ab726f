"""Everything that a report says about the jobs below one folder, as numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mllmrec.reporting.comparison import (
    BEST,
    Comparison,
    Scores,
    check_comparable,
    chosen_metrics,
    compare,
    main_metric,
    score_rows,
)
from mllmrec.reporting.rows import Grouped, Row, group_runs
from mllmrec.reporting.runs import Jobs, Run, Unfinished, find_jobs


@dataclass(frozen=True)
class Experiment:
    """The rows of one folder, scored and compared."""

    name: str
    jobs: Jobs
    grouped: Grouped
    scores: list[Scores]
    metrics: list[str]  # columns of the table
    metric: str  # of tests and pictures
    baseline: Scores
    chosen_as_best: bool  # the baseline, on the same users
    comparisons: list[Comparison]

    @property
    def rows(self) -> list[Row]:
        """The rows, in order."""
        return [entry.row for entry in self.scores]

    @property
    def axis(self) -> str:
        """The setting whose values are the rows' labels; empty where a label names its settings itself."""
        return next(iter(self.rows[0].settings)) if self.rows[0].short else ""

    @property
    def protocol(self) -> dict[str, Any]:
        """How every row was evaluated."""
        protocols = [run.protocol for row in self.rows for run in row.runs]
        rankings = dict.fromkeys(str(protocol["ranking"]) for protocol in protocols)
        return {**protocols[0], "ranking": " or ".join(rankings)}

    @property
    def chance(self) -> dict[str, float]:
        """What a random order scores; of metrics for which it is known."""
        return self.rows[0].runs[0].metrics["chance"]

    @property
    def differing(self) -> dict[str, list[str]]:
        """Every setting that differs between rows: key -> its value in each row, as shown."""
        return self.grouped.differing

    @property
    def unfinished(self) -> list[Unfinished]:
        """Jobs that take no part."""
        return self.jobs.unfinished

    @property
    def repeated(self) -> list[Run]:
        """Older runs of the same settings and seed, which take no part."""
        return self.grouped.repeated

    def as_json(self) -> dict[str, Any]:
        """Every number, for report.json."""
        return {
            "name": self.name,
            "protocol": {key: value for key, value in self.protocol.items() if key != "seed"},
            "metric": self.metric,
            "rows": [self._row_as_json(entry) for entry in self.scores],
            "chance": self.chance,
            "differing": self.differing,
            "baseline": self.baseline.row.label,
            "baseline_chosen_as_best": self.chosen_as_best,
            "comparisons": [vars(comparison) for comparison in self.comparisons],
            "unfinished": [{"path": str(job.path), "error": job.error} for job in self.unfinished],
            "repeated": [str(run.path) for run in self.repeated],
        }

    def _row_as_json(self, entry: Scores) -> dict[str, Any]:
        return {
            "label": entry.row.label,
            "settings": entry.row.settings,
            "stage": entry.stage,
            "seeds": entry.row.seeds,
            "runs": [str(run.path) for run in entry.row.runs],
            "leak": entry.row.leaks,
            "seconds": entry.seconds,
            "cost": entry.cost,
            "metrics": {
                name: {
                    "mean": entry.mean(name),
                    "interval": entry.intervals[name],
                    "spread_over_seeds": entry.spread(name),
                    "per_seed": entry.per_seed[name],
                }
                for name in entry.per_user
            },
        }


def build_experiment(
    folder: str | Path,
    name: str,
    stage: str,
    metrics: Sequence[str] | None,
    metric: str | None,
    baseline: str,
    seed: int,
    resamples: int,
) -> Experiment:
    """Read, group, score and compare the runs below ``folder``.

    Args:
        folder: holds run folders, at any depth.
        name: of the experiment, as shown.
        stage: a stage's name, or ``last``.
        metrics: columns of the table; None for all.
        metric: of tests and pictures; None for NDCG at the second cut-off.
        baseline: a row's label, or ``best``.
        seed: of the bootstrap and the flips.
        resamples: of the bootstrap.

    Raises:
        UserError: no finished run, runs that cannot be compared, or an unknown stage, metric or baseline.
    """
    jobs = find_jobs(folder)
    check_comparable(jobs.runs)
    grouped = group_runs(jobs.runs)
    scores = score_rows(grouped.rows, stage, seed, resamples)
    main = main_metric(scores, metric)
    base, comparisons = compare(scores, main, baseline, seed, resamples)
    return Experiment(
        name=name,
        jobs=jobs,
        grouped=grouped,
        scores=scores,
        metrics=chosen_metrics(scores, metrics),
        metric=main,
        baseline=base,
        chosen_as_best=baseline == BEST,
        comparisons=comparisons,
    )


def names_of(folders: Sequence[str]) -> list[str]:
    """What each folder's section is called: its last part, or the whole path where two would be called alike."""
    short = [Path(folder).resolve().name for folder in folders]
    return [
        name if short.count(name) == 1 else str(folder) for name, folder in zip(short, folders, strict=True)
    ]
