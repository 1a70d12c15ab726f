"""Ranks by what followed the latest item most often in training: a first-order Markov chain."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy import sparse

from mllmrec.baselines.base import FitInputs, Recommender
from mllmrec.baselines.popularity import item_counts
from mllmrec.baselines.weights_file import read_weights, write_weights
from mllmrec.data.parts import Parts

KIND = "recent"


class Recent(Recommender):
    """Scores an item by how often it directly followed the history's latest item.

    If counts are equal, such as 0, the more popular item comes first: popularity adds less than 1.
    """

    def fit(self, inputs: FitInputs) -> None:
        """Count items and pairs of neighbours."""
        size = inputs.num_items
        self._counts = item_counts(inputs.sequences, size)
        parts = Parts.of(inputs.sequences)
        rows, columns = parts.without_last().joined(), parts.without_first().joined()
        # Building CSR from pairs sums pairs that occur more than once.
        self._followed = sparse.csr_array((np.ones(len(rows), np.int64), (rows, columns)), shape=(size, size))

    def scores(self, histories: Sequence[np.ndarray], candidates: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The transition count, plus half of the item's share of all interactions."""
        popularity = self._counts / (2 * max(1, self._counts.sum()))
        return [
            self._from_latest(history, popularity)[wanted]
            for history, wanted in zip(histories, candidates, strict=True)
        ]

    def _from_latest(self, history: np.ndarray, popularity: np.ndarray) -> np.ndarray:
        if len(history) == 0:
            return popularity
        scores = popularity.copy()
        start, end = self._followed.indptr[history[-1] : history[-1] + 2]
        scores[self._followed.indices[start:end]] += self._followed.data[start:end]
        return scores

    def save(self, folder: Path) -> None:
        """Write both counts."""
        followed = self._followed
        parts = {"counts": self._counts, "follows": followed.data}
        parts |= {"items": followed.indices, "starts": followed.indptr}
        write_weights(folder, KIND, len(self._counts), parts)

    def load(self, folder: Path, num_items: int) -> None:
        """Read both counts."""
        parts = read_weights(folder, KIND, num_items)
        self._counts = parts["counts"]
        self._followed = sparse.csr_array(
            (parts["follows"], parts["items"], parts["starts"]), shape=(num_items, num_items)
        )
