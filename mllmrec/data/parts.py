"""Sequences of item codes that are slices of one flat array: a million users take two integers each and no object."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import overload

import numpy as np


class Parts(Sequence[np.ndarray]):
    """S sequences of item codes; part ``s`` is ``items[starts[s]:ends[s]]``. Arrays are made when they are asked for.

    Args:
        items: (N,) int.
        starts: (S,) int64.
        ends: (S,) int64; a part that would end before it starts is empty.
    """

    def __init__(self, items: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> None:
        self.items, self.starts, self.ends = items, starts, np.maximum(starts, ends)

    @classmethod
    def of(cls, sequences: Iterable[np.ndarray]) -> Parts:
        """These sequences as parts; they are copied unless they are parts already."""
        if isinstance(sequences, Parts):
            return sequences
        arrays = [np.asarray(sequence, dtype=np.int64) for sequence in sequences]
        ends = np.cumsum([len(array) for array in arrays], dtype=np.int64)
        items = np.concatenate([*arrays, np.empty(0, dtype=np.int64)])
        return cls(items, np.concatenate([[0], ends])[:-1].astype(np.int64), ends)

    def __len__(self) -> int:
        return len(self.starts)

    @overload
    def __getitem__(self, index: int) -> np.ndarray: ...

    @overload
    def __getitem__(self, index: slice | np.ndarray) -> Parts: ...

    def __getitem__(self, index: int | slice | np.ndarray) -> np.ndarray | Parts:
        if isinstance(index, slice | np.ndarray):
            return Parts(self.items, self.starts[index], self.ends[index])
        return self.items[self.starts[index] : self.ends[index]]

    @property
    def lengths(self) -> np.ndarray:
        """(S,) int64."""
        return self.ends - self.starts

    def without_first(self) -> Parts:
        """The parts without their first items."""
        return Parts(self.items, self.starts + 1, self.ends)

    def without_last(self) -> Parts:
        """The parts without their last items."""
        return Parts(self.items, self.starts, self.ends - 1)

    def joined(self) -> np.ndarray:
        """(M,) the items of all parts, one part after the other."""
        lengths = self.lengths
        if len(self) and np.array_equal(self.starts[1:], self.ends[:-1]):
            return self.items[self.starts[0] : self.ends[-1]]
        return self.items[ranges(self.starts, lengths)]

    def owners(self) -> np.ndarray:
        """(M,) int64: the part that each of the joined items belongs to."""
        return np.repeat(np.arange(len(self)), self.lengths)


def ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """``[start, start + length)`` of every pair, concatenated, int64."""
    before = np.cumsum(lengths) - lengths
    return np.repeat(starts - before, lengths) + np.arange(int(lengths.sum()), dtype=np.int64)
