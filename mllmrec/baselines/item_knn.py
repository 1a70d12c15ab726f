"""Item-based nearest neighbours: recommends items that the same users have as the items of the history."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy import sparse

from mllmrec.baselines.base import FitInputs, Recommender
from mllmrec.baselines.weights_file import read_weights, write_weights
from mllmrec.errors import UserError

KIND = "item_knn"
_BLOCK_ITEMS = 1024  # rows of the similarity matrix computed at once; bounds memory


class ItemKnn(Recommender):
    """Sums a candidate's similarity to each item of the history.

    The similarity is the cosine of two items' columns in the binary user-item matrix. It is kept only for each item's
    nearest neighbours (Deshpande and Karypis, 2004, "Item-based top-N recommendation algorithms").

    Args:
        neighbours: how many neighbours of each item are kept.
        shrinkage: added to the cosine's denominator; a value above 0 trusts pairs of rare items less.
        decay: weight of each item of the history relative to the item after it; 1 weighs all items the same.

    Raises:
        UserError: a value is out of range.
    """

    def __init__(self, neighbours: int = 100, shrinkage: float = 0.0, decay: float = 1.0) -> None:
        if neighbours < 1 or shrinkage < 0 or not 0 < decay <= 1:
            raise UserError(
                f"method.recommender: neighbours={neighbours} must be at least 1, shrinkage={shrinkage} at least 0 "
                f"and decay={decay} above 0 and at most 1"
            )
        self.neighbours, self.shrinkage, self.decay = neighbours, shrinkage, decay

    def fit(self, inputs: FitInputs) -> None:
        """Compute the similarities, block by block."""
        bought = _incidence(inputs.sequences, inputs.num_items)
        norms = np.sqrt(np.asarray(bought.sum(axis=0), dtype=np.float64).ravel())
        by_item = bought.T.tocsr()
        blocks = [
            self._nearest(by_item[start : start + _BLOCK_ITEMS] @ bought, start, norms)
            for start in range(0, inputs.num_items, _BLOCK_ITEMS)
        ]
        self._similar = sparse.vstack(blocks, format="csr")

    def _nearest(self, together: sparse.csr_array, start: int, norms: np.ndarray) -> sparse.csr_array:
        """Each item's largest similarities, for a block of items; `together` counts common users. Ties: item code."""
        pairs = together.tocoo()
        rows, columns = pairs.coords
        cosine = pairs.data / (norms[rows + start] * norms[columns] + self.shrinkage)
        other = rows + start != columns
        rows, columns, cosine = rows[other], columns[other], cosine[other]
        order = np.lexsort((columns, -cosine, rows))
        rows, columns, cosine = rows[order], columns[order], cosine[order]
        place = np.arange(len(rows)) - np.searchsorted(rows, rows)
        kept = place < self.neighbours
        return sparse.csr_array((cosine[kept], (rows[kept], columns[kept])), shape=together.shape)

    def scores(self, histories: Sequence[np.ndarray], candidates: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Sums of similarities."""
        return [self._sums(history)[wanted] for history, wanted in zip(histories, candidates, strict=True)]

    def _sums(self, history: np.ndarray) -> np.ndarray:
        weights = self.decay ** np.arange(len(history))[::-1]
        return self._similar[np.asarray(history, dtype=np.int64)].T @ weights

    def save(self, folder: Path) -> None:
        """Write the similarities."""
        similar = self._similar
        parts = {"cosines": similar.data, "items": similar.indices, "starts": similar.indptr}
        write_weights(folder, KIND, similar.shape[0], parts)

    def load(self, folder: Path, num_items: int) -> None:
        """Read the similarities."""
        parts = read_weights(folder, KIND, num_items)
        self._similar = sparse.csr_array(
            (parts["cosines"], parts["items"], parts["starts"]), shape=(num_items, num_items)
        )


def _incidence(sequences: Sequence[np.ndarray], num_items: int) -> sparse.csr_array:
    """(U, I) int64 of 0 and 1: which user has which item."""
    distinct = [np.unique(sequence) for sequence in sequences]
    users = np.repeat(np.arange(len(distinct)), [len(items) for items in distinct])
    items = np.concatenate([*distinct, np.empty(0, dtype=np.int64)]).astype(np.int64)
    shape = (len(distinct), num_items)
    return sparse.csr_array((np.ones(len(items), dtype=np.int64), (users, items)), shape=shape)
