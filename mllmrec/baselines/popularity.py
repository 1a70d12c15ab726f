"""Ranks the most frequent items first, in the same order for every user."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mllmrec.baselines.base import FitInputs, Recommender
from mllmrec.baselines.weights_file import read_weights, write_weights
from mllmrec.data.parts import Parts

KIND = "popularity"


def item_counts(sequences: Sequence[np.ndarray], num_items: int) -> np.ndarray:
    """(I,) int64: how often each item occurs."""
    return np.bincount(Parts.of(sequences).joined(), minlength=num_items).astype(np.int64)


class Popularity(Recommender):
    """Scores an item by how often it occurs in the training sequences."""

    def fit(self, inputs: FitInputs) -> None:
        """Count."""
        self._counts = item_counts(inputs.sequences, inputs.num_items)

    def scores(self, histories: Sequence[np.ndarray], candidates: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The counts. Histories are not used."""
        return [self._counts[wanted].astype(np.float64) for wanted in candidates]

    def save(self, folder: Path) -> None:
        """Write the counts."""
        write_weights(folder, KIND, len(self._counts), {"counts": self._counts})

    def load(self, folder: Path, num_items: int) -> None:
        """Read the counts."""
        self._counts = read_weights(folder, KIND, num_items)["counts"]
