"""Scores that know nothing: they show what chance reaches on the same candidates."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mllmrec.baselines.base import FitInputs, Recommender
from mllmrec.baselines.weights_file import read_weights, write_weights
from mllmrec.randomness import numpy_generator

KIND = "random"


class RandomOrder(Recommender):
    """Gives every item a random score, drawn from the run's seed and the history.

    The same history gets the same scores, whatever the order of users and candidates.
    """

    def fit(self, inputs: FitInputs) -> None:
        """Take the seed; there is nothing to learn."""
        self._seed, self._num_items = inputs.seed, inputs.num_items

    def scores(self, histories: Sequence[np.ndarray], candidates: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Uniform between 0 and 1."""
        return [
            self._all_scores(history)[wanted] for history, wanted in zip(histories, candidates, strict=True)
        ]

    def _all_scores(self, history: np.ndarray) -> np.ndarray:
        name = ",".join(map(str, history.tolist()))
        return numpy_generator(self._seed, "random recommender", name).random(self._num_items)

    def save(self, folder: Path) -> None:
        """Write the seed."""
        write_weights(folder, KIND, self._num_items, {"seed": np.array([self._seed], dtype=np.int64)})

    def load(self, folder: Path, num_items: int) -> None:
        """Read the seed."""
        self._seed = int(read_weights(folder, KIND, num_items)["seed"][0])
        self._num_items = num_items
