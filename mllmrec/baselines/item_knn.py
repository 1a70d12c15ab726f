"""Item-based nearest neighbours: recommends items that the same users have as the items of the history."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from scipy import sparse

from mllmrec.baselines.base import FitInputs, Recommender
from mllmrec.baselines.weights_file import read_weights, write_weights
from mllmrec.data.parts import Parts, ranges
from mllmrec.errors import UserError

KIND = "item_knn"
_BLOCK_ITEMS = 1024  # most rows of the similarity matrix that are computed at once
_BLOCK_PAIRS = 1 << 22  # most pairs of items of one user that are counted at once; these two bound memory


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
        pairs = by_item @ np.diff(bought.indptr).astype(
            np.int64
        )  # of each item, with itself and with repetitions
        nearest = _Nearest(int(np.minimum(pairs, self.neighbours).sum()), inputs.num_items)
        for start, end in _blocks(pairs):
            nearest.add(self._nearest(by_item[start:end] @ bought, start, norms))
        self._similar = nearest.table()

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
        count = self._similar.shape[0]
        if sum(map(len, candidates)) >= count:  # so many that sums for all items cost no more
            return [
                self._sums(history)[wanted] for history, wanted in zip(histories, candidates, strict=True)
            ]
        if not any(map(len, candidates)):
            return [np.empty(0) for _ in candidates]
        asked = np.concatenate([np.asarray(wanted, dtype=np.int64) for wanted in candidates])
        sizes = [len(wanted) for wanted in candidates]
        keys, place = np.unique(np.repeat(np.arange(len(sizes)), sizes) * count + asked, return_inverse=True)
        sums = self._sums_of(keys, histories)[place]
        return np.split(sums, np.cumsum(sizes)[:-1])

    def _sums_of(self, keys: np.ndarray, histories: Sequence[np.ndarray]) -> np.ndarray:
        """(K,) sums for sorted keys, each a history's number times I plus an item; the terms are added as in `_sums`."""
        similar, known = self._similar, Parts.of(histories)
        starts = similar.indptr[known.joined()].astype(np.int64)
        lengths = similar.indptr[known.joined() + 1] - starts
        entries = ranges(starts, lengths)
        age = np.repeat(known.lengths, known.lengths) - 1 - _places(known.lengths)
        weights = np.repeat(self.decay**age, lengths)
        found = np.repeat(known.owners(), lengths) * similar.shape[0] + similar.indices[entries]
        places = np.minimum(np.searchsorted(keys, found), len(keys) - 1)
        hit = keys[places] == found
        terms = similar.data[entries[hit]] * weights[hit]
        return np.bincount(places[hit], weights=terms, minlength=len(keys))

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


class _Nearest:
    """The rows of the similarity matrix, kept as they are computed."""

    def __init__(self, most: int, num_items: int) -> None:
        # Of the room for all that there may be, only what is written to takes memory.
        self._cosines, self._items = np.empty(most), np.empty(most, dtype=np.int32)
        self._counts = [np.zeros(1, dtype=np.int64)]
        self._num_items, self._filled = num_items, 0

    def add(self, block: sparse.csr_array) -> None:
        """Add the next rows."""
        end = self._filled + block.nnz
        self._cosines[self._filled : end], self._items[self._filled : end] = block.data, block.indices
        self._counts.append(np.diff(block.indptr))
        self._filled = end

    def table(self) -> sparse.csr_array:
        """All rows."""
        kept = slice(0, self._filled)
        starts = np.cumsum(np.concatenate(self._counts))
        return sparse.csr_array(
            (self._cosines[kept], self._items[kept], starts), shape=(self._num_items, self._num_items)
        )


def _blocks(pairs: np.ndarray) -> Iterator[tuple[int, int]]:
    """Ranges of items within both bounds; an item of more pairs is alone."""
    before = np.concatenate([[0], np.cumsum(pairs)])
    start = 0
    while start < len(pairs):
        fitting = int(np.searchsorted(before, before[start] + _BLOCK_PAIRS, side="right")) - 1
        end = min(max(fitting, start + 1), start + _BLOCK_ITEMS, len(pairs))
        yield start, end
        start = end


def _incidence(sequences: Iterable[np.ndarray], num_items: int) -> sparse.csr_array:
    """(U, I) int32 of 0 and 1: which user has which item."""
    parts = Parts.of(sequences)
    pairs = parts.owners() * num_items + parts.joined()
    pairs.sort()
    pairs = pairs[np.diff(pairs, prepend=-1) > 0]
    users, items = np.divmod(pairs, num_items)
    starts = np.concatenate([[0], np.cumsum(np.bincount(users, minlength=len(parts)))])
    shape = (len(parts), num_items)
    return sparse.csr_array((np.ones(len(items), dtype=np.int32), items, starts), shape=shape)


def _places(lengths: np.ndarray) -> np.ndarray:
    """The place of each item of sequences of these lengths, from 0, concatenated."""
    return ranges(np.zeros_like(lengths), lengths)
