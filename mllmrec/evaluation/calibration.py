"""Scores of candidates, corrected for what they say without knowing the user: length, popularity of words, place in the list."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np

from mllmrec.evaluation.ranking import ScoringRanker
from mllmrec.prompts.examples import Example, Examples

Calibrate = Literal["none", "history", "permute"]
ORDERS = 4  # where the ``eval`` section of an earlier version does not say how many


def without_prior(scores: np.ndarray, prior: np.ndarray) -> np.ndarray:
    """(C,) log-probabilities, less those that the same candidates have without any history.

    This is contextual calibration (Zhao et al. 2021, arXiv 2102.09690) with an empty history as the input without content:
    a candidate that is likely for everyone gains nothing from it.

    >>> without_prior(np.array([-1.0, -3.0]), np.array([-0.5, -4.0])).tolist()
    [-0.5, 1.0]
    """
    return scores - prior


def per_token(scores: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """(C,) log-probabilities per token: long answers are not less likely because they are long.

    >>> per_token(np.array([-2.0, -6.0]), np.array([1, 4])).tolist()
    [-2.0, -1.5]
    """
    return scores / lengths


def rotations(candidates: int, count: int) -> np.ndarray:
    """(K, C) orders of C candidates: the list begins with another one each time, at even distances.

    K is ``count``, but at most C: then each candidate stands in each place once, and more orders would only repeat some.

    >>> rotations(4, 2).tolist()
    [[0, 1, 2, 3], [2, 3, 0, 1]]
    >>> rotations(2, 4).tolist()
    [[0, 1], [1, 0]]
    """
    count = min(count, candidates)
    starts = np.arange(count) * candidates // count
    return (starts[:, None] + np.arange(candidates)) % candidates


def mean_over_orders(scores: np.ndarray, orders: np.ndarray) -> np.ndarray:
    """The mean score of each candidate over several orders of the list.

    Args:
        scores: (K, C), each row in the order of its own list.
        orders: (K, C), the candidate in each place of each list.

    Returns:
        (C,) by candidate.

    >>> mean_over_orders(np.array([[-1.0, -2.0], [-4.0, -5.0]]), np.array([[0, 1], [1, 0]])).tolist()
    [-3.0, -3.0]
    """
    by_candidate = np.empty_like(scores)
    np.put_along_axis(by_candidate, orders, scores, axis=1)
    return by_candidate.mean(0)


class Calibrated(ScoringRanker):
    """Ranks by the scores of another ranker after these corrections: length first, then history or order."""

    def __init__(
        self,
        inner: ScoringRanker,
        examples: Examples,
        calibrate: Calibrate = "none",
        tokens: bool = False,
        orders: int = 4,
    ) -> None:
        """Set the corrections.

        Args:
            inner: gives log-probabilities of answers.
            examples: writes the prompts of what is ranked.
            calibrate: subtract the scores without history, average over orders of the list, or neither.
            tokens: whether scores are per token.
            orders: of each list, at most as many as it has candidates.
        """
        super().__init__(inner.policy, inner.answers, inner.engine)
        self.inner, self.seed, self.examples = inner, inner.seed, examples
        self.calibrate, self.tokens, self.orders = calibrate, tokens, orders

    @contextmanager
    def ready(self) -> Iterator[None]:
        """The block of the inner ranker."""
        with self.inner.ready():
            yield

    def scores(self, examples: Sequence[Example]) -> list[np.ndarray]:
        """For each example (C,) float64."""
        if self.calibrate == "history":
            blank = [self.examples.reworded(example, history=False) for example in examples]
            return list(map(without_prior, self._scores(examples), self._scores(blank)))
        if self.calibrate == "permute":
            orders = [rotations(len(example.candidates), self.orders) for example in examples]
            tables: list[list[np.ndarray]] = [[] for _ in examples]
            for k in range(max(map(len, orders))):  # short lists have fewer orders
                shown = [place for place, own in enumerate(orders) if k < len(own)]
                rows = self._scores(
                    [self.examples.reworded(examples[place], order=orders[place][k]) for place in shown]
                )
                for place, row in zip(shown, rows, strict=True):
                    tables[place].append(row)
            return [mean_over_orders(np.stack(rows), own) for rows, own in zip(tables, orders, strict=True)]
        return self._scores(examples)

    def _scores(self, examples: Sequence[Example]) -> list[np.ndarray]:
        found = self.inner.scores(examples)
        if not self.tokens:
            return found
        unscored = int(self.answers.ends_itself)  # the end token
        lengths = [
            np.array([len(row) - unscored for row in self.answers.among(example.candidates.tolist())])
            for example in examples
        ]
        return list(map(per_token, found, lengths))


def calibrated(ranker: ScoringRanker, examples: Examples, settings: Mapping[str, Any]) -> ScoringRanker:
    """The ranker with the corrections of the ``eval`` section; itself if there are none."""
    asked = calibration(settings)
    if not asked:
        return ranker
    return Calibrated(
        ranker,
        examples,
        asked.get("calibrate", "none"),
        tokens="normalise" in asked,
        orders=asked.get("orders", 1),
    )


def calibration(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The corrections that the ``eval`` section asks for; runs of earlier versions have none in it."""
    found = {
        name: settings.get(name)
        for name in ("calibrate", "normalise")
        if settings.get(name, "none") != "none"
    }
    if found.get("calibrate") == "permute":
        found["orders"] = settings.get("orders", ORDERS)
    return found
