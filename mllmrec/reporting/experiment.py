"""All numbers in a report about the jobs below one folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mllmrec.reporting.comparison import (
    BEST,
    LAST,
    Comparison,
    Scores,
    check_comparable,
    chosen_metrics,
    compare,
    main_metric,
    score_rows,
)
from mllmrec.reporting.diagnostics import training_numbers
from mllmrec.reporting.rows import Grouped, Row, group_runs
from mllmrec.reporting.runs import KEPT, Jobs, Run, Unfinished, find_jobs
from mllmrec.reporting.slices import ScoredSlice, score_slices


@dataclass(frozen=True)
class Question:
    """What a report should say about an experiment's runs."""

    stage: str = LAST  # a phase's name, or last
    weights: str = KEPT  # which of the phase's weights: kept, best (on the held-out users) or last
    metrics: Sequence[str] | None = None  # columns of the table; None for all
    metric: str | None = None  # of tests and pictures; None for NDCG at the second cut-off
    baseline: str = BEST  # a row's label, or best
    seed: int = 0  # seed of the bootstrap and the sign flips
    resamples: int = 2000  # bootstrap samples


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
    chosen_as_best: bool  # whether the baseline was chosen as the best row on the same users
    comparisons: list[Comparison]
    slices: list[ScoredSlice]  # parts of the users; empty if the runs recorded none
    training: list[dict[str, float]]  # by row, what its phase logged about rollouts and updates
    weights: str = KEPT  # which weights of each phase were ranked
    # How many of all runs were also ranked among other negatives; None if all or none were.
    alone: tuple[int, int] | None = None

    @property
    def rows(self) -> list[Row]:
        """The rows, in order."""
        return [entry.row for entry in self.scores]

    @property
    def axis(self) -> str:
        """The setting whose values label the rows; empty if each label names its settings itself."""
        return next(iter(self.rows[0].settings)) if self.rows[0].short else ""

    @property
    def protocol(self) -> dict[str, Any]:
        """How every row was evaluated."""
        protocols = [run.protocol for row in self.rows for run in row.runs]
        joined = {
            key: " or ".join(dict.fromkeys(str(protocol[key]) for protocol in protocols if key in protocol))
            for key in ("ranking", "listed")
        }
        if any("inference" in protocol for protocol in protocols):
            ways = dict.fromkeys(protocol.get("inference", "greedy") for protocol in protocols)
            joined["inference"] = " or ".join(ways)
        return {**protocols[0], **{key: words for key, words in joined.items() if words}}

    @property
    def chance(self) -> dict[str, float]:
        """The expected scores of a random order, for metrics where these are known."""
        return self.rows[0].runs[0].metrics["chance"]

    @property
    def baselines(self) -> dict[str, dict[str, Any]]:
        """Counting baselines ranked beside every run: name -> ``metrics`` and ``intervals``, without those that are rows."""
        labels = {row.label for row in self.rows}
        known = self.rows[0].runs[0].metrics["baselines"]
        return {name: found for name, found in known.items() if name not in labels}

    @property
    def differing(self) -> dict[str, list[str]]:
        """Every setting that differs between rows: key -> its value in each row, as shown."""
        return self.grouped.differing

    @property
    def unfinished(self) -> list[Unfinished]:
        """Jobs that the report leaves out."""
        return self.jobs.unfinished

    @property
    def repeated(self) -> list[Run]:
        """Older runs of the same settings and seed, which the report leaves out."""
        return self.grouped.repeated

    def as_json(self) -> dict[str, Any]:
        """Every number, for report.json."""
        return {
            "name": self.name,
            "protocol": {key: value for key, value in self.protocol.items() if key != "seed"},
            "metric": self.metric,
            "weights": self.weights,
            "baselines": self.baselines,
            "rows": [
                {**self._row_as_json(entry), "training": numbers}
                for entry, numbers in zip(self.scores, self.training, strict=True)
            ],
            "chance": self.chance,
            "differing": self.differing,
            "baseline": self.baseline.row.label,
            "baseline_chosen_as_best": self.chosen_as_best,
            "comparisons": [vars(comparison) for comparison in self.comparisons],
            "slices": [vars(part) for part in self.slices],
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
            "leak": entry.row.leak,
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


def build_experiments(folder: str | Path, name: str, question: Question) -> list[Experiment]:
    """Read, group, score and compare the runs below ``folder``.

    Args:
        folder: holds run folders, at any depth.
        name: the experiment's name, as shown.
        question: what the report should say.

    Returns:
        One experiment under the runs' main protocol. If all runs were also ranked among other negatives, a second one
        under that protocol.

    Raises:
        UserError: no run is finished, runs cannot be compared, or a phase, metric or baseline is unknown.
    """
    jobs = find_jobs(folder)
    main = build_experiment(jobs, name, question)
    beside = [run.among_other_negatives for run in jobs.runs]
    others = [run for run in beside if run is not None]
    if len(others) < len(jobs.runs):
        return [replace(main, alone=(len(others), len(jobs.runs)) if others else None)]
    negatives = others[0].protocol["negatives"]
    return [main, build_experiment(replace(jobs, runs=others), f"{name}, {negatives} negatives", question)]


def build_experiment(jobs: Jobs, name: str, question: Question) -> Experiment:
    """Group, score and compare runs as `build_experiments` does, for one protocol."""
    check_comparable(jobs.runs)
    grouped = group_runs(jobs.runs)
    scores = score_rows(grouped.rows, question.stage, question.seed, question.resamples, question.weights)
    main = main_metric(scores, question.metric)
    base, comparisons = compare(scores, main, question.baseline, question.seed, question.resamples)
    return Experiment(
        name=name,
        jobs=jobs,
        grouped=grouped,
        scores=scores,
        metrics=chosen_metrics(scores, question.metrics),
        metric=main,
        baseline=base,
        chosen_as_best=question.baseline == BEST,
        comparisons=comparisons,
        slices=score_slices(
            scores, main, question.stage, question.seed, question.resamples, question.weights
        ),
        training=training_numbers(scores, question.stage),
        weights=question.weights,
    )


def names_of(folders: Sequence[str]) -> list[str]:
    """The title of each folder's section: the last part of the path, or the whole path if two would be equal."""
    short = [Path(folder).resolve().name for folder in folders]
    return [
        name if short.count(name) == 1 else str(folder) for name, folder in zip(short, folders, strict=True)
    ]
