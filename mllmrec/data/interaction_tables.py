"""Tables of interactions and the files of a published split, read against an item table."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from mllmrec.data.base import SPLITS, RawInteractions
from mllmrec.data.columns import codes_among, first_seen_codes
from mllmrec.data.published import PublishedSamples, join_interactions, stitch_samples
from mllmrec.data.tables import read_table
from mllmrec.errors import UserError


@dataclass
class KnownItems:
    """The ids of an item file, and what happens to interactions with other items."""

    path: Path
    ids: np.ndarray  # (I,) str
    drop: bool  # True: count and leave out interactions with unknown items; False: refuse them
    dropped: int = 0

    def codes(self, column: pa.ChunkedArray, where: Callable[[int], str]) -> np.ndarray:
        """(R,) int32 positions among the ids; -1 for rows to drop.

        Raises:
            UserError: items are unknown and not to be dropped. The message shows the first few and their lines.
        """
        codes = codes_among(column, self.ids)
        unknown = np.flatnonzero(codes < 0)
        if len(unknown) and not self.drop:
            shown = ", ".join(f"{column[row]} ({where(row)})" for row in unknown[:3].tolist())
            raise UserError(
                f"{len(unknown)} interactions with items that {self.path} lacks: {shown}: "
                f"add the items, or set dataset.unknown_items=drop{self._nearly(column, unknown)}"
            )
        self.dropped += len(unknown)
        return codes

    def _nearly(self, column: pa.ChunkedArray, unknown: np.ndarray) -> str:
        """A hint for the message, if an unknown id differs from a known one only in how it is written."""
        known = {_alike(item): item for item in self.ids.tolist()}
        for row in unknown[:100].tolist():
            item = known.get(_alike(column[row].as_py()))
            if item is not None:
                return f"; {column[row].as_py()!a} may mean {item!a} of the item file: write both alike"
        return ""


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
        table = read_table(path, [self.user, self.item, *optional], self.encoding, header=self.header)
        items = known.codes(table.ids(self.item), table.where)
        kept = items >= 0
        return _Rows(
            table.ids(self.user).filter(pa.array(kept)),
            items[kept],
            None if self.time is None else table.times(self.time)[kept],
            None if self.rating is None else table.floats(self.rating)[kept].astype(np.float32),
        )

    def _coded(self, parts: Sequence[_Rows]) -> RawInteractions:
        codes, user_ids = _people([part.users for part in parts])

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
        parts = [self._samples(label, path, known, history) for label, path in files]
        codes, user_ids = _people([part.users for part in parts])
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

    def _samples(self, label: int, path: Path, known: KnownItems, history: str) -> _SampleRows:
        table = read_table(
            path, [self.user, self.item, history], self.encoding, header=self.header, lists=[history]
        )
        offsets, elements = table.id_lists(history)
        row_of = np.repeat(np.arange(len(table)), np.diff(offsets))
        items = known.codes(elements, lambda element: table.where(int(row_of[element])))
        targets = known.codes(table.ids(self.item), table.where)
        kept = targets >= 0
        kept_items = (items >= 0) & kept[row_of]
        return _SampleRows(
            users=table.ids(self.user).filter(pa.array(kept)),
            history=items[kept_items],
            lengths=np.bincount(row_of[kept_items], minlength=len(table))[kept],
            targets=targets[kept],
            labels=np.full(int(kept.sum()), label, dtype=np.int8),
        )


@dataclass(frozen=True)
class _Rows:
    """N interactions of one file."""

    users: pa.ChunkedArray
    items: np.ndarray
    times: np.ndarray | None
    ratings: np.ndarray | None


@dataclass(frozen=True)
class _SampleRows:
    """R samples of one file; their histories hold M items in all."""

    users: pa.ChunkedArray  # R
    history: np.ndarray  # (M,)
    lengths: np.ndarray  # (R,)
    targets: np.ndarray  # (R,)
    labels: np.ndarray  # (R,)


def _people(columns: Sequence[pa.ChunkedArray]) -> tuple[np.ndarray, np.ndarray]:
    return first_seen_codes(
        pa.chunked_array([chunk for column in columns for chunk in column.chunks], pa.string())
    )
