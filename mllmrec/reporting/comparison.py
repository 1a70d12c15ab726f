"""Rows of one experiment compared on the same users: means, intervals and paired tests; U users, S seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mllmrec.errors import UserError, choices
from mllmrec.evaluation.intervals import bootstrap_intervals, paired_differences
from mllmrec.evaluation.metrics import cutoffs_of, metric_names, objective_name, per_user_metrics
from mllmrec.evaluation.records import joined_ranks
from mllmrec.reporting.rows import Row
from mllmrec.reporting.runs import KEPT, Run

LAST, BEST = "last", "best"
# The parts of a phase's cost, in the order shown; the last ones are those of ranking again (mllmrec.evaluate).
COSTS = (
    "tokens_per_prompt",
    "seconds_per_step",
    "peak_memory_mb",
    "seconds",
    "generated_tokens",
    "rankings",
)
# What must agree before two numbers may share a table. The candidates' hash comes last: it differs whenever the
# dataset, the split or the negatives differ, and these are more informative.
_PROTOCOL = ("dataset", "split", "ranking", "num_candidates", "negatives", "cot", "users", "candidates_hash")
# Ways of ranking that are the only one of their method: runs with them may be compared with any other run.
_METHODS_OWN = {"score", "pointwise"}
_REMEDY = {
    "candidates_hash": "train both with the same protocol_seed, dataset, filters, split and eval settings",
    "users": "give both the same eval.max_users and dataset.max_users",
}


@dataclass(frozen=True)
class Scores:
    """One row's results."""

    row: Row
    stage: str  # evaluated phases of its runs, joined by "/" if they differ
    per_user: dict[str, np.ndarray]  # metric -> (U,), averaged over the seeds
    per_seed: dict[str, list[float]]  # metric -> S means over users
    intervals: dict[str, list[float]]  # metric -> [low, high], from resampling users
    seconds: float | None  # of all phases, mean over the seeds
    cost: dict[str, float]  # cost of the phase, mean over the seeds; only what every seed measured

    def mean(self, metric: str) -> float:
        """Mean over seeds and users."""
        return float(self.per_user[metric].mean())

    def spread(self, metric: str) -> float | None:
        """Standard deviation over the seeds; None for a single seed."""
        values = self.per_seed[metric]
        return float(np.std(values, ddof=1)) if len(values) > 1 else None


@dataclass(frozen=True)
class Comparison:
    """One row against the baseline, paired by user."""

    label: str
    difference: float  # row - baseline
    interval: list[float]
    p: float  # two-sided, sign flips
    p_holm: float  # adjusted for the number of comparisons
    effect: float | None  # Cohen's d of the paired differences; None if all are equal but not 0
    users: int


def check_comparable(runs: Sequence[Run]) -> None:
    """Refuse to compare numbers that were measured in different ways.

    Raises:
        UserError: two runs differ; it names the first such pair, the difference, and how to make them agree.
    """
    first = runs[0]
    for run in runs[1:]:
        for key in _PROTOCOL:
            ours, theirs = first.protocol.get(key), run.protocol.get(key)
            if key == "ranking" and not _METHODS_OWN.isdisjoint((ours, theirs)):
                continue
            if ours != theirs:
                raise UserError(
                    f"{first.path} and {run.path} cannot be compared: {key} is {ours} in the first and {theirs} in the "
                    f"second; {_REMEDY.get(key, 'evaluate both alike')}, or report them separately with runs=DIR,DIR"
                )


def score_rows(
    rows: Sequence[Row], stage: str, seed: int, resamples: int, weights: str = KEPT
) -> list[Scores]:
    """Read every run's ranks, join them by user, average over seeds, and bootstrap over users.

    Args:
        rows: rows of comparable runs (`check_comparable`).
        stage: name of a phase, or ``last`` for each run's last.
        seed: seed of the bootstrap.
        resamples: number of bootstrap samples.
        weights: which weights of the phase (`Run.records`).

    Raises:
        UserError: a run lacks the phase, or was not evaluated on the same users.
    """
    runs = [run for row in rows for run in row.runs]
    ks = sorted(set.intersection(*(set(run.cutoffs(stage_of(run, stage))) for run in runs)))
    if not ks:
        raise UserError("the runs have no cut-off in common: give them the same eval.ks")
    first = runs[0]
    reference = first.records(stage_of(first, stage), weights)
    result = []
    for row in rows:
        stages = [stage_of(run, stage) for run in row.runs]
        seeds = []
        for run, name in zip(row.runs, stages, strict=True):
            try:
                _, ranks = joined_ranks(reference, run.records(name, weights))
            except UserError as error:
                raise UserError(f"{first.path} and {run.path} cannot be compared: {error}") from error
            seeds.append(per_user_metrics(ranks, ks))
        averaged = {
            name: np.mean([values[name] for values in seeds], axis=0) for name in by_cutoff(metric_names(ks))
        }
        seconds = [run.seconds() for run in row.runs]
        measured = [value for value in seconds if value is not None]
        result.append(
            Scores(
                row=row,
                stage="/".join(dict.fromkeys(stages)),
                per_user=averaged,
                per_seed={name: [float(values[name].mean()) for values in seeds] for name in averaged},
                intervals=bootstrap_intervals(averaged, seed, resamples),
                seconds=float(np.mean(measured)) if len(measured) == len(seconds) else None,
                cost=_mean_cost(
                    [run.metrics["cost"].get(name, {}) for run, name in zip(row.runs, stages, strict=True)]
                ),
            )
        )
    return result


def _mean_cost(costs: Sequence[dict[str, float]]) -> dict[str, float]:
    return {
        key: float(np.mean([cost[key] for cost in costs]))
        for key in COSTS
        if all(key in cost for cost in costs)
    }


def stage_of(run: Run, stage: str) -> str:
    """The phase of ``run`` that ``stage`` names; ``last`` names the last one.

    Raises:
        UserError: the run has no such phase.
    """
    if stage == LAST:
        return run.stages[-1]
    if stage not in run.stages:
        raise UserError(f"stage={stage}: {run.path} has {choices(run.stages)}; choose one of them, or {LAST}")
    return stage


def by_cutoff(names: Sequence[str]) -> list[str]:
    """The columns of a table by cut-off: HR@1, HR@3, NDCG@3, HR@5 …; metrics without a cut-off come last."""
    return sorted(names, key=lambda name: int(name.partition("@")[2] or 1 << 30))


def chosen_metrics(scores: Sequence[Scores], names: Sequence[str] | None) -> list[str]:
    """The columns to show: the requested ones, or all except those that are always 1, such as HR@10 of ten candidates.

    Raises:
        UserError: a metric is unknown.
    """
    known = list(scores[0].per_user)
    for name in names or ():
        if name not in known:
            raise UserError(f"metrics: no {name} in these runs; choose {choices(known)}")
    return list(names) if names else [name for name in known if any(entry.mean(name) < 1 for entry in scores)]


def main_metric(scores: Sequence[Scores], name: str | None) -> str:
    """The metric of tests and pictures: the requested one, or NDCG at the second cut-off (HR if there is only one).

    Raises:
        UserError: the metric is unknown.
    """
    known = list(scores[0].per_user)
    if name is None:
        return objective_name(cutoffs_of(known))
    if name not in known:
        raise UserError(f"metric={name}: not in these runs; choose {choices(known)}")
    return name


def compare(
    scores: Sequence[Scores], metric: str, baseline: str, seed: int, resamples: int
) -> tuple[Scores, list[Comparison]]:
    """Test every row against the baseline on the seed-averaged values of the same users.

    Args:
        scores: scores of all rows, with users in the same order.
        metric: the metric to compare.
        baseline: a row's label, alone or as typed, or ``best`` for the row with the largest mean.
        seed: seed of the sign flips and the bootstrap.
        resamples: number of bootstrap samples.

    Returns:
        The baseline, and the comparisons of the other rows in their order.

    Raises:
        UserError: no row has the label.
    """
    if baseline == BEST:
        base = max(scores, key=lambda entry: entry.mean(metric))
    else:
        labelled = {entry.row.label: entry for entry in scores}
        typed = {entry.row.typed: entry for entry in scores}
        if baseline not in labelled | typed:
            raise UserError(f"baseline={baseline}: no such row; choose {BEST} or {choices(list(labelled))}")
        base = (labelled | typed)[baseline]
    others = [entry for entry in scores if entry is not base]
    raw: list[dict[str, Any]] = []
    for entry in others:
        pair = ({metric: entry.per_user[metric]}, {metric: base.per_user[metric]})
        raw.append(paired_differences(*pair, seed, resamples)[metric])
    adjusted = holm([result["p"] for result in raw])
    return base, [
        Comparison(
            label=entry.row.label,
            difference=result["mean"],
            interval=result["interval"],
            p=result["p"],
            p_holm=p_holm,
            effect=cohens_d(entry.per_user[metric] - base.per_user[metric]),
            users=result["users"],
        )
        for entry, result, p_holm in zip(others, raw, adjusted, strict=True)
    ]


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment, in the order given.

    The k-th smallest of m p-values (k from 0) is multiplied by m - k; the result never falls below the adjusted value of
    a smaller p (Holm, Scandinavian Journal of Statistics 1979).
    """
    count = len(p_values)
    adjusted = [0.0] * count
    largest = 0.0
    for place, index in enumerate(sorted(range(count), key=lambda index: p_values[index])):
        largest = max(largest, min(1.0, (count - place) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def cohens_d(differences: np.ndarray) -> float | None:
    """Mean of the (U,) paired differences over their standard deviation; None if only the deviation is 0."""
    mean, spread = float(differences.mean()), float(differences.std(ddof=1))
    if spread < 1e-12:
        return 0.0 if abs(mean) < 1e-12 else None
    return mean / spread
