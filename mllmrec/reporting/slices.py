"""Rows of one experiment in parts of the users: by their targets' popularity, by their histories, by images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mllmrec.evaluation.intervals import bootstrap_intervals
from mllmrec.evaluation.slices import FEW
from mllmrec.reporting.comparison import Scores, stage_of
from mllmrec.reporting.runs import KEPT


@dataclass(frozen=True)
class ScoredSlice:
    """Some of the users, and every row's result for them."""

    name: str
    users: int
    means: list[float]  # of each row
    intervals: list[list[float] | None]  # of each row: [low, high]; None for a single user

    @property
    def few(self) -> bool:
        """Whether there are too few users to say much."""
        return self.users < FEW


def score_slices(
    scores: Sequence[Scores], metric: str, stage: str, seed: int, resamples: int, weights: str = KEPT
) -> list[ScoredSlice]:
    """The slices of the first row's first run, with the result of every row; none if that run recorded no slices.

    Args:
        scores: the rows, as `comparison.score_rows` gives them.
        metric: which one.
        stage: the name of a phase, or ``last``.
        seed: seed of the bootstrap.
        resamples: number of bootstrap samples.
        weights: which weights of the phase.
    """
    first = scores[0].row.runs[0]
    names = first.records(stage_of(first, stage), weights).slices  # in the order of `Scores.per_user`
    found = []
    for name in dict.fromkeys(name for own in names or () for name in own):
        members = np.array([name in own for own in names or ()])
        parts = [{metric: entry.per_user[metric][members]} for entry in scores]
        users = int(members.sum())
        found.append(
            ScoredSlice(
                name,
                users,
                [float(part[metric].mean()) for part in parts],
                [bootstrap_intervals(part, seed, resamples)[metric] if users > 1 else None for part in parts],
            )
        )
    recorded = first.metrics["slices"].get(stage_of(first, stage), {})
    places = {name: place for place, name in enumerate(recorded)}
    return sorted(found, key=lambda one: places.get(one.name, len(places)))
