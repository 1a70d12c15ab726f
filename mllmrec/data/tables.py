"""Table files → columns, with the file and line of whatever is wrong in them."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from mllmrec.data.text import as_text, collapse_spaces, read_json_lines, read_lines, require_files
from mllmrec.errors import UserError, choices

JSON_CHUNK = 100_000
NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?$"
INTEGER = r"^[+-]?\d{1,18}$"
SUFFIXES = {".csv": "csv", ".tsv": "tsv", ".parquet": "parquet", ".jsonl": "json", ".ndjson": "json"}


def table_kind(path: Path) -> str:
    """``csv``, ``tsv``, ``parquet`` or ``json``, by the name.

    Raises:
        UserError: another suffix.
    """
    name = path.name.lower().removesuffix(".gz")
    kind = SUFFIXES.get(Path(name).suffix)
    if kind is None or (kind == "parquet" and path.suffix == ".gz"):
        raise UserError(
            f"{path}: unknown kind of table: its name must end in {choices(list(SUFFIXES))} (text also with .gz)"
        )
    return kind


def read_rows(path: Path, encoding: str = "utf-8") -> Iterator[tuple[int, list[str]]]:
    """(line number from 1 on which the row begins, fields) of a CSV or TSV file, header included.

    Rows with no field at all are left out. A tab separated file has no quoting.

    Raises:
        UserError: a quotation mark is never closed.
    """
    text = iter(read_lines(path, encoding))
    if table_kind(path) == "tsv":
        for number, line in enumerate(text, start=1):
            if line.strip("\r\n"):
                yield number, line.rstrip("\r\n").split("\t")
        return
    reader = csv.reader(text, strict=True)
    start = 1
    try:
        for row in reader:
            if row:
                yield start, row
            start = reader.line_num + 1
    except csv.Error as error:
        raise UserError(
            f'{path}:{start}: not a CSV row ({error}): quote fields as "a ""b""" and close every quotation mark'
        ) from error


@dataclass(frozen=True)
class TableFile:
    """Some columns of a table file; R rows. Conversions name file, line and column of what does not convert."""

    path: Path
    columns: Mapping[str, pa.ChunkedArray]  # each R values
    encoding: str = "utf-8"
    line_numbers: np.ndarray | None = None  # (R,); None: found by reading again when asked for

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def where(self, row: int) -> str:
        """``file:line`` of a row counted from 0; for Parquet ``file row n``, counted from 1."""
        if self.line_numbers is not None:
            return f"{self.path}:{self.line_numbers[row]}"
        kind = table_kind(self.path)
        if kind == "parquet":
            return f"{self.path} row {row + 1}"
        if kind == "json":
            numbers = (number for number, _ in read_json_lines(self.path, self.encoding))
        else:
            numbers = (number for number, _ in read_rows(self.path, self.encoding))
            next(numbers)
        return f"{self.path}:{next(number for count, number in enumerate(numbers) if count == row)}"

    def ids(self, name: str) -> pa.ChunkedArray:
        """A column as (R,) strings without surrounding spaces.

        Raises:
            UserError: a value is missing.
        """
        column = pc.utf8_trim_whitespace(pc.cast(self.columns[name], pa.string()))
        self._refuse(pc.equal(pc.fill_null(column, ""), ""), name, "is empty: give an id or remove the row")
        return column

    def text(self, name: str) -> np.ndarray:
        """A column as (R,) str on one line each, "" where missing."""
        return np.array(
            [collapse_spaces(as_text(value)) for value in self.columns[name].to_pylist()],
            dtype=object,
        )

    def floats(self, name: str) -> np.ndarray:
        """A column as (R,) float64.

        Raises:
            UserError: a value is missing or no finite number.
        """
        column = self.columns[name]
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            column = pc.utf8_trim_whitespace(column)
            fits = pc.fill_null(pc.match_substring_regex(column, NUMBER), False)
            self._refuse(pc.invert(fits), name, "is not a number: correct it, and give dates as Unix seconds")
        column = pc.cast(column, pa.float64())
        self._refuse(pc.invert(pc.fill_null(pc.is_finite(column), False)), name, "is not a finite number")
        return column.to_numpy()

    def times(self, name: str) -> np.ndarray:
        """A column of moments as (R,) int64; numbers with a fraction come back in millionths.

        Raises:
            UserError: a value is missing or no number (dates in Parquet columns of a time type are fine).
        """
        column = self.columns[name]
        if pa.types.is_temporal(column.type):
            self._refuse(pc.is_null(column), name, "is empty: give a time or remove the row")
            stamps = column if pa.types.is_timestamp(column.type) else pc.cast(column, pa.timestamp("ms"))
            return pc.cast(stamps, pa.int64()).to_numpy()
        text = pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
        whole = pa.types.is_integer(column.type)
        if text:
            column = pc.utf8_trim_whitespace(column)
            whole = pc.all(pc.fill_null(pc.match_substring_regex(column, INTEGER), False)).as_py()
        if whole:
            self._refuse(pc.is_null(column), name, "is empty: give a time or remove the row")
            return pc.cast(column, pa.int64()).to_numpy()
        numbers = self.floats(name)
        return (numbers if np.array_equal(numbers, np.floor(numbers)) else np.rint(numbers * 1e6)).astype(
            np.int64
        )

    def _refuse(self, bad: pa.ChunkedArray, name: str, reason: str) -> None:
        row = pc.index(bad, True).as_py()
        if row >= 0:
            value = self.columns[name][row].as_py()
            raise UserError(f"{self.where(row)}: column {name}: {value!r} {reason}")


def read_table(path: Path, columns: Sequence[str], encoding: str = "utf-8") -> TableFile:
    """Read the named columns of a CSV, TSV, Parquet or JSON Lines file (text files also as ``.gz``).

    Raises:
        UserError: the file is missing, empty, malformed (naming the line) or lacks a column (naming those it has).
    """
    require_files([path], "correct the path")
    kind = table_kind(path)
    wanted = list(dict.fromkeys(columns))
    if kind == "parquet":
        table = _read_parquet(path, wanted)
    elif kind == "json":
        table = _read_json(path, wanted, encoding)
    else:
        table = _read_text(path, wanted, encoding, kind)
    if not table.num_rows:
        raise UserError(f"{path} has no rows: give a file with at least one")
    return TableFile(path, {name: table.column(name) for name in wanted}, encoding)


def column_names(path: Path, encoding: str = "utf-8") -> list[str]:
    """The header of a CSV or TSV file.

    Raises:
        UserError: the file is empty.
    """
    for _, row in read_rows(path, encoding):
        return [name.strip() for name in row]
    raise UserError(f"{path} is empty: give a file with a header line and rows")


def first_seen_codes(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """(R,) int32 codes in order of first occurrence, and the (U,) distinct values as str."""
    values = pc.unique(column)
    codes = pc.index_in(column, value_set=values).to_numpy()
    return codes.astype(np.int32), np.array(values.to_pylist(), dtype=object)


def codes_among(column: pa.ChunkedArray, known: np.ndarray) -> np.ndarray:
    """(R,) int32 position of each value in ``known``; -1 where it is not there."""
    found = pc.fill_null(pc.index_in(column, value_set=pa.array(known.tolist(), pa.string())), -1)
    return found.to_numpy().astype(np.int32)


def refuse_duplicate_ids(table: TableFile, ids: pa.ChunkedArray) -> None:
    """Refuse an item table in which an id stands twice.

    Raises:
        UserError: naming the first few ids with both lines.
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


def _require_columns(path: Path, wanted: Sequence[str], present: Sequence[str]) -> None:
    missing = [name for name in wanted if name not in present]
    if missing:
        raise UserError(
            f"{path}: no column {choices(missing)}: it has {', '.join(present)}: name one of these in the settings"
        )


def _read_parquet(path: Path, wanted: Sequence[str]) -> pa.Table:
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            _require_columns(path, wanted, file.schema_arrow.names)
            return file.read(columns=list(wanted))
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(
            f"{path}: not a readable Parquet file ({collapse_spaces(str(error))}): write it again"
        ) from error


def _read_json(path: Path, wanted: Sequence[str], encoding: str) -> pa.Table:
    chunks: list[pa.RecordBatch] = []
    rows: dict[str, list[str | None]] = {name: [] for name in wanted}
    present: dict[str, None] = {}
    schema = pa.schema([(name, pa.string()) for name in wanted])

    def flush() -> None:
        chunks.append(pa.record_batch([pa.array(rows[name], pa.string()) for name in wanted], schema=schema))
        for values in rows.values():
            values.clear()

    for count, (_, record) in enumerate(read_json_lines(path, encoding), start=1):
        present.update(dict.fromkeys(record))
        for name in wanted:
            value = record.get(name)
            rows[name].append(None if value is None else as_text(value))
        if count % JSON_CHUNK == 0:
            flush()
    flush()
    table = pa.Table.from_batches(chunks, schema=schema)
    if table.num_rows:
        _require_columns(path, wanted, list(present))
    return table


def _read_text(path: Path, wanted: Sequence[str], encoding: str, kind: str) -> pa.Table:
    header = column_names(path, encoding)
    _require_columns(path, wanted, header)
    if len(set(header)) < len(header):
        raise UserError(f"{path}:1: a column name stands twice in {', '.join(header)}: rename one")
    try:
        table = pyarrow.csv.read_csv(
            path,
            read_options=pyarrow.csv.ReadOptions(encoding=encoding, column_names=header, skip_rows=0),
            parse_options=pyarrow.csv.ParseOptions(
                delimiter="\t" if kind == "tsv" else ",",
                quote_char=False if kind == "tsv" else '"',
                newlines_in_values=kind == "csv",
            ),
            convert_options=pyarrow.csv.ConvertOptions(
                include_columns=list(wanted),
                column_types=dict.fromkeys(wanted, pa.string()),
                strings_can_be_null=False,
            ),
        )
    except (pa.ArrowInvalid, OSError, UnicodeDecodeError) as error:
        _find_fault(path, encoding, len(header))
        raise UserError(f"{path}: not readable as {kind} ({collapse_spaces(str(error))})") from error
    if kind == "csv" and _odd_quotes(path):
        _find_fault(path, encoding, len(header))
    return table.slice(1)


def _odd_quotes(path: Path) -> bool:
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rb") as stream:
        blocks = iter(lambda: stream.read(1 << 20), b"")
        return sum(block.count(b'"') for block in blocks) % 2 == 1


def _find_fault(path: Path, encoding: str, width: int) -> None:
    """Read again, slowly, for the line to blame: the fast reader skips blank lines and so counts others."""
    for number, row in read_rows(path, encoding):
        if len(row) != width:
            raise UserError(
                f"{path}:{number}: {len(row)} fields where the header has {width}: correct the line"
            )
