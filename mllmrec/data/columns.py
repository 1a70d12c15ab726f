"""Columns of a table file → ids, text, numbers and times, with the place of any value that does not convert."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mllmrec.data.printed_lists import printed_list
from mllmrec.data.text import as_text, collapse_spaces
from mllmrec.data.times import EXACT, NUMBER, NoTime, all_rounded, exact_times, whole_times
from mllmrec.errors import UserError

log = logging.getLogger(__name__)

LIST, OBJECT, TRUTH, ROUNDED = "a list", "an object", "true or false", "a rounded number"
_NO_TIMES = (LIST, OBJECT, TRUTH)
LONGEST_ID = 500  # characters; the id of every item becomes a token
UNPRINTABLE = (
    r"[\p{Cc}\p{Zl}\p{Zp}\x{202A}-\x{202E}\x{2066}-\x{2069}]"  # controls, line ends, marks of text direction
)
MISSING = ("nan", "NaN", "None", "null", "NaT", "<NA>")  # when they stand where an id should


@dataclass(frozen=True)
class TableFile:
    """Some columns of a table file; R rows. A failed conversion names the file, line and column of the value."""

    path: Path
    columns: Mapping[str, pa.ChunkedArray]  # R values each
    where: Callable[[int], str]  # a row counted from 0 → ``file:line``; for Parquet ``file row n``, from 1
    # Formats without column types may hold any kind of value: column → kind of value → the first row that holds it.
    strays: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def ids(self, name: str) -> pa.ChunkedArray:
        """A column as (R,) strings without surrounding spaces. Whole numbers have no fraction: 1.0 is ``1``.

        Raises:
            UserError: a value is missing, is a word for a missing value (`MISSING`), or is neither text nor a number.
        """
        self._refuse_strays(name, (LIST, OBJECT, TRUTH, ROUNDED), "give an id as text or a whole number")
        column = self._decoded(name)
        kind = column.type
        if pa.types.is_floating(kind):
            column = self._numbers_as_ids(name)
        elif pa.types.is_decimal(kind) and kind.scale > 0:
            column = pc.utf8_rtrim(
                pc.utf8_rtrim(pc.cast(column, pa.string()), characters="0"), characters="."
            )
        elif not _has_plain_text(kind) or pa.types.is_boolean(kind):
            raise self._wrong(name, None, f"holds {kind}: give ids as text or whole numbers")
        column = pc.utf8_trim_whitespace(pc.cast(column, pa.string()))
        self._refuse(pc.equal(pc.fill_null(column, ""), ""), name, "is empty: give an id or remove the row")
        self._refuse(
            pc.is_in(column, value_set=pa.array(MISSING)),
            name,
            "is what programs write for a missing value: give an id or remove the row",
        )
        self._refuse(
            pc.greater(pc.utf8_length(column), LONGEST_ID),
            name,
            f"is longer than {LONGEST_ID} characters: name the column of ids, or shorten it",
        )
        self._refuse(
            pc.match_substring_regex(column, UNPRINTABLE),
            name,
            "holds a line end or another character that controls terminals: correct it",
        )
        return column

    def id_lists(self, name: str) -> tuple[np.ndarray, pa.ChunkedArray]:
        """A column of lists of ids. A missing list is empty. Text is read too, as programs print lists.

        Returns:
            (R + 1,) int64 offsets, and the (M,) ids of all rows. Row r has ``ids[offsets[r]:offsets[r + 1]]``.

        Raises:
            UserError: a value is not a list, or an element is not an id.
        """
        self._refuse_strays(name, (LIST, OBJECT, TRUTH), "give a list of ids")
        column = self._decoded(name)
        kind = column.type
        if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
            lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy()
            elements = pc.list_flatten(column)
        else:
            lists = self._printed_lists(name, column)
            lengths = np.fromiter((len(row) for row in lists), np.int64, len(lists))
            elements = pa.chunked_array([pa.array([part for row in lists for part in row], pa.string())])
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)

        def where(element: int) -> str:
            return self.where(int(np.searchsorted(offsets, element, side="right")) - 1)

        return offsets, TableFile(self.path, {name: elements}, where).ids(name)

    def _printed_lists(self, name: str, column: pa.ChunkedArray) -> list[list[str]]:
        if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
            raise self._wrong(name, None, f"holds {column.type}: give lists of ids")
        lists = []
        for row, text in enumerate(column.to_pylist()):
            try:
                lists.append(printed_list(text or ""))
            except ValueError as error:
                raise self._wrong(name, row, str(error)) from error
        return lists

    def text(self, name: str) -> np.ndarray:
        """A column as (R,) str, each on one line, "" where missing. Lists are joined with commas.

        Raises:
            UserError: a value is not text.
        """
        self._refuse_strays(name, (OBJECT,), "name a column of text")
        column = self._decoded(name)
        kind = column.type.value_type if pa.types.is_list(column.type) else column.type
        if not _has_plain_text(kind):
            raise self._wrong(name, None, f"holds {column.type}: name a column of text")
        return np.array([collapse_spaces(as_text(value)) for value in column.to_pylist()], dtype=object)

    def floats(self, name: str) -> np.ndarray:
        """A column as (R,) float64.

        Raises:
            UserError: a value is missing or not a finite number.
        """
        self._refuse_strays(name, (LIST, OBJECT, TRUTH), "give a number")
        column = self._decoded(name)
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            column = pc.utf8_ltrim(pc.utf8_trim_whitespace(column), characters="+")
            fits = pc.fill_null(pc.match_substring_regex(column, NUMBER), False)
            self._refuse(pc.invert(fits), name, "is not a number: correct it")
        try:
            column = pc.cast(column, pa.float64(), safe=False)
        except pa.ArrowNotImplementedError as error:
            raise self._wrong(name, None, f"holds {column.type}: give numbers") from error
        self._refuse(pc.invert(pc.fill_null(pc.is_finite(column), False)), name, "is not a finite number")
        return column.to_numpy()

    def times(self, name: str) -> np.ndarray:
        """A column of times as (R,) int64 that keep their order; see `mllmrec.data.times.exact_times`.

        Raises:
            UserError: a value is missing, is not a time, or does not fit 64 bits.
        """
        self._refuse_strays(name, _NO_TIMES, "give a time")
        column = self.columns[name]
        try:
            times = exact_times(column)
        except NoTime as error:
            raise self._wrong(name, error.row, error.reason) from error
        if all_rounded(column):
            log.warning(
                "%s: column %s: every value is in exponent form, such as %r: a spreadsheet may have rounded the times; "
                "write them in full",
                self.path,
                name,
                column[0].as_py(),
            )
        return times

    def held_times(self, name: str) -> pa.ChunkedArray:
        """A column of times in a form that takes little memory, for `times` of a whole file that is read in parts.

        Raises:
            UserError: a value is not a time by its kind.
        """
        self._refuse_strays(name, _NO_TIMES, "give a time")
        return whole_times(self.columns[name])

    def _decoded(self, name: str) -> pa.ChunkedArray:
        """The column, with bytes decoded to text."""
        column = self.columns[name]
        if not (pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type)):
            return column
        try:
            return pc.cast(column, pa.string())
        except pa.ArrowInvalid as error:
            row = next(row for row, value in enumerate(column.to_pylist()) if value and not _is_utf8(value))
            raise self._wrong(name, row, "is not UTF-8 text: write the column as text") from error

    def _numbers_as_ids(self, name: str) -> pa.ChunkedArray:
        """A column of doubles as text; null where missing."""
        column = pc.cast(self.columns[name], pa.float64())
        self._refuse(
            pc.is_nan(column),
            name,
            "is what programs write for a missing value: give an id or remove the row",
        )
        self._refuse(
            pc.greater_equal(pc.abs(column), float(EXACT)),
            name,
            f"is {ROUNDED}, and several ids may have become one: write ids as text or whole numbers",
        )
        values = [
            str(int(value)) if value is not None and value.is_integer() else value and str(value)
            for value in column.to_pylist()
        ]
        return pa.chunked_array([pa.array(values, pa.string())])

    def _refuse(self, bad: pa.ChunkedArray, name: str, reason: str) -> None:
        row = pc.index(bad, True).as_py()
        if row >= 0:
            raise self._wrong(name, row, reason)

    def _refuse_strays(self, name: str, kinds: tuple[str, ...], remedy: str) -> None:
        found = [(row, kind) for kind, row in self.strays.get(name, {}).items() if kind in kinds]
        if found:
            row, kind = min(found)
            raise self._wrong(name, row, f"is {kind}: {remedy}")

    def _wrong(self, name: str, row: int | None, reason: str) -> UserError:
        if row is None:
            return UserError(f"{self.path}: column {name} {reason}")
        return UserError(
            f"{self.where(row)}: column {name}: {shortened(self.columns[name][row].as_py())} {reason}"
        )


def _has_plain_text(kind: pa.DataType) -> bool:
    return not (pa.types.is_nested(kind) or pa.types.is_duration(kind) or pa.types.is_time(kind))


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def shortened(value: object, longest: int = 60) -> str:
    """A value as error messages show it: quoted, on one line, with the middle left out if it is long."""
    text = repr(value)
    return text if len(text) <= longest else f"{text[: longest - 12]}…{text[-10:]}"


def first_seen_codes(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """(R,) int32 codes in order of first occurrence, and the (U,) distinct values as str."""
    values = pc.unique(column)
    codes = pc.index_in(column, value_set=values).to_numpy()
    return codes.astype(np.int32), np.array(values.to_pylist(), dtype=object)


def joined_codes(columns: Sequence[pa.ChunkedArray]) -> tuple[np.ndarray, np.ndarray]:
    """What `first_seen_codes` gives for all columns in their order, each encoded by ``dictionary_encode``."""
    chunks = [chunk for column in columns for chunk in column.chunks]
    if not chunks:
        return np.empty(0, np.int32), np.empty(0, dtype=object)
    chunks = pa.chunked_array(chunks).unify_dictionaries().chunks
    codes = np.concatenate([chunk.indices.to_numpy() for chunk in chunks])
    return codes.astype(np.int32), np.array(chunks[0].dictionary.to_pylist(), dtype=object)


def codes_among(column: pa.ChunkedArray, known: np.ndarray | pa.Array) -> np.ndarray:
    """(R,) int32 position of each value in ``known``; -1 if it is not there."""
    values = known if isinstance(known, pa.Array) else pa.array(known.tolist(), pa.string())
    return pc.fill_null(pc.index_in(column, value_set=values), -1).to_numpy().astype(np.int32)


def refuse_duplicate_ids(table: TableFile, ids: pa.ChunkedArray) -> None:
    """Refuse an item table that has the same id twice.

    Raises:
        UserError: an id repeats. The message names the first few such ids with both lines.
    """
    codes, names = first_seen_codes(ids)
    if len(names) == len(codes):
        return
    _, first = np.unique(codes, return_index=True)
    again = np.setdiff1d(np.arange(len(codes)), first)
    shown = [
        f"{names[codes[row]]} ({table.where(first[codes[row]])} and {table.where(row)})" for row in again[:3]
    ]
    raise UserError(f"{len(again)} repeated item ids: {'; '.join(shown)}: keep one row per item")
