"""Tables of interactions and the files of a published split, read against an item table.

A file is read in parts, and only codes are kept of them: a row takes a few numbers, however long its ids are.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mllmrec.data.base import SPLITS, RawInteractions
from mllmrec.data.columns import TableFile, codes_among, joined_codes
from mllmrec.data.published import PublishedSamples, join_interactions, stitch_samples
from mllmrec.data.tables import read_parts
from mllmrec.errors import UserError

ENCODED = pa.dictionary(pa.int32(), pa.string())
SHOWN = 3  # unknown items in a message


class KnownItems:
    """The ids of an item file, and what happens to interactions with other items.

    Args:
        path: the item file.
        ids: (I,) str.
        drop: whether interactions with unknown items are counted and left out; if not, they are refused.
    """

    def __init__(self, path: Path, ids: np.ndarray, drop: bool) -> None:
        self.path, self.ids, self.drop = path, ids, drop
        self.dropped = 0
        self._values = pa.array(ids.tolist(), pa.string())

    def codes(
        self, column: pa.ChunkedArray, where: Callable[[int], str], unknown: UnknownItems
    ) -> np.ndarray:
        """(R,) int32 positions among the ids; -1 for unknown ones, which ``unknown`` counts."""
        codes = codes_among(column, self._values)
        rows = np.flatnonzero(codes < 0)
        if self.drop:
            self.dropped += len(rows)
            return codes
        for row in rows[: SHOWN - len(unknown.shown)].tolist():
            unknown.shown.append(f"{column[row]} ({where(row)})")
        if len(rows) and not unknown.hint:
            unknown.hint = self._nearly(column, rows)
        unknown.count += len(rows)
        return codes

    def refuse(self, unknown: UnknownItems) -> None:
        """Refuse items that are unknown and not to be dropped.

        Raises:
            UserError: there are some. The message shows the first few and their lines.
        """
        if unknown.count:
            raise UserError(
                f"{unknown.count} interactions with items that {self.path} lacks: {', '.join(unknown.shown)}: "
                f"add the items, or set dataset.unknown_items=drop{unknown.hint}"
            )

    def _nearly(self, column: pa.ChunkedArray, unknown: np.ndarray) -> str:
        """A hint for the message, if an unknown id differs from a known one only in how it is written."""
        known = {_alike(item): item for item in self.ids.tolist()}
        for row in unknown[:100].tolist():
            item = known.get(_alike(column[row].as_py()))
            if item is not None:
                return f"; {column[row].as_py()!a} may mean {item!a} of the item file: write both alike"
        return ""


@dataclass
class UnknownItems:
    """Items of a column that the item file lacks."""

    count: int = 0
    shown: list[str] = field(default_factory=list)  # the first few, with their lines
    hint: str = ""  # what may be meant


def _alike(item: str) -> str:
    """An id without what programs change in it: Unicode form, case, leading zeros and a trailing ``.0``."""
    plain = unicodedata.normalize("NFKC", item).casefold()
    return plain.removesuffix(".0").lstrip("0") or "0"


@dataclass(frozen=True)
class InteractionTables:
    """Which column of such files holds what; None if they do not hold it."""

    user: str
    item: str
    time: str | None = None
    rating: str | None = None
    history: str | None = None  # lists of item ids; if given, a row is a sample and not an interaction
    encoding: str = "utf-8"
    header: bool = True

    def read(self, path: Path, known: KnownItems) -> RawInteractions:
        """Read one file with a row per interaction.

        Raises:
            UserError: a line or value is wrong, or an item is unknown.
        """
        return self._coded([self._rows(path, known)])

    def read_split(self, files: Mapping[str, Path], known: KnownItems) -> RawInteractions:
        """Read the files of a split, keyed by the names in `SPLITS`.

        Raises:
            UserError: a line or value is wrong, or an item is unknown.
        """
        present = [(label, files[name]) for name, label in SPLITS.items() if name in files]
        if self.history is not None:
            return self._read_samples(present, known, self.history)
        parts = [self._rows(path, known) for _, path in present]
        labels = [label for label, _ in present]
        return join_interactions(
            self._coded(parts),
            np.repeat(np.array(labels, dtype=np.int8), [len(part.items) for part in parts]),
        )

    def _rows(self, path: Path, known: KnownItems) -> _Rows:
        optional = [name for name in (self.time, self.rating) if name is not None]
        unknown, where = UnknownItems(), None
        users, items, kept, times, ratings = [], [], [], [], []
        for part in read_parts(path, [self.user, self.item, *optional], self.encoding, header=self.header):
            where = where or part.where
            codes = known.codes(part.ids(self.item), part.where, unknown)
            there = codes >= 0
            kept.append(there)
            items.append(codes[there])
            users.append(part.ids(self.user).filter(pa.array(there)).dictionary_encode())
            if self.time is not None:
                times.append(part.held_times(self.time))
            if self.rating is not None:
                ratings.append(part.floats(self.rating)[there].astype(np.float32))
        known.refuse(unknown)
        assert where is not None
        return _Rows(
            pa.chunked_array([chunk for column in users for chunk in column.chunks], ENCODED),
            np.concatenate(items),
            None if self.time is None else _times(path, self.time, times, where)[np.concatenate(kept)],
            np.concatenate(ratings) if ratings else None,
        )

    def _coded(self, parts: Sequence[_Rows]) -> RawInteractions:
        codes, user_ids = joined_codes([part.users for part in parts])

        def column(name: str) -> np.ndarray | None:
            values = [getattr(part, name) for part in parts]
            return None if values[0] is None else np.concatenate(values)

        return RawInteractions(
            user_ids,
            codes,
            np.concatenate([part.items for part in parts]),
            column("times"),
            column("ratings"),
        )

    def _read_samples(
        self, files: Sequence[tuple[int, Path]], known: KnownItems, history: str
    ) -> RawInteractions:
        parts = [part for label, path in files for part in self._samples(label, path, known, history)]
        codes, user_ids = joined_codes([part.users for part in parts])
        lengths = np.concatenate([part.lengths for part in parts])
        return stitch_samples(
            PublishedSamples(
                user_ids=user_ids,
                users=codes,
                offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
                history=np.concatenate([part.history for part in parts]),
                targets=np.concatenate([part.targets for part in parts]),
                labels=np.concatenate([part.labels for part in parts]),
            )
        )

    def _samples(self, label: int, path: Path, known: KnownItems, history: str) -> Iterator[_SampleRows]:
        listed, aimed_at = UnknownItems(), UnknownItems()
        columns = [self.user, self.item, history]
        for table in read_parts(path, columns, self.encoding, header=self.header, lists=[history]):
            offsets, elements = table.id_lists(history)
            row_of = np.repeat(np.arange(len(table)), np.diff(offsets))
            items = known.codes(elements, _row_of(table, row_of), listed)
            targets = known.codes(table.ids(self.item), table.where, aimed_at)
            kept = targets >= 0
            kept_items = (items >= 0) & kept[row_of]
            yield _SampleRows(
                users=table.ids(self.user).filter(pa.array(kept)).dictionary_encode(),
                history=items[kept_items],
                lengths=np.bincount(row_of[kept_items], minlength=len(table))[kept],
                targets=targets[kept],
                labels=np.full(int(kept.sum()), label, dtype=np.int8),
            )
        known.refuse(listed)
        known.refuse(aimed_at)


def _row_of(table: TableFile, rows: np.ndarray) -> Callable[[int], str]:
    """Where elements of lists are, by the row of each."""
    return lambda element: table.where(int(rows[element]))


@dataclass(frozen=True)
class _Rows:
    """N interactions of one file."""

    users: pa.ChunkedArray  # with dictionaries
    items: np.ndarray
    times: np.ndarray | None
    ratings: np.ndarray | None


@dataclass(frozen=True)
class _SampleRows:
    """R samples of one file; their histories hold M items in all."""

    users: pa.ChunkedArray  # R, with dictionaries
    history: np.ndarray  # (M,)
    lengths: np.ndarray  # (R,)
    targets: np.ndarray  # (R,)
    labels: np.ndarray  # (R,)


def _times(
    path: Path, name: str, parts: Sequence[pa.ChunkedArray], where: Callable[[int], str]
) -> np.ndarray:
    """(R,) int64: the column that was read in parts, whose times must share a unit."""
    if len({part.type for part in parts}) > 1:  # some parts hold whole numbers alone
        parts = [pc.cast(part, pa.string()) for part in parts]
    column = pa.chunked_array([chunk for part in parts for chunk in part.chunks])
    return TableFile(path, {name: column}, where).times(name)
