"""Table files → columns. Every fault is reported with its file and line."""

from __future__ import annotations

import csv
import json
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from mllmrec.data.columns import LIST, OBJECT, ROUNDED, TRUTH, TableFile, shortened
from mllmrec.data.text import (
    RoundedNumber,
    Unpacked,
    as_text,
    collapse_spaces,
    open_bytes,
    read_json_lines,
    read_lines,
    require_files,
)
from mllmrec.errors import UserError, choices

ROWS = 1 << 18  # of a Parquet file that are read at once
JSON_ROWS = 20_000  # of a JSON Lines file
_Part = tuple[
    Mapping[str, pa.ChunkedArray], Mapping[str, Mapping[str, int]]
]  # columns, and the strays in them
SHOWN = 20  # column names shown in a message
LONGEST_ROW = 1 << 24  # bytes
SUFFIXES = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".txt": "tsv",
    ".parquet": "parquet",
    ".jsonl": "json",
    ".ndjson": "json",
}


def table_kind(path: Path) -> str:
    """``csv``, ``tsv``, ``parquet`` or ``json``, judged by the file's name.

    Raises:
        UserError: the suffix is none of these.
    """
    name = path.name.lower().removesuffix(".gz")
    kind = SUFFIXES.get(Path(name).suffix)
    if kind is None or (kind == "parquet" and path.suffix == ".gz"):
        raise UserError(
            f"{path}: unknown kind of table: its name must end in {choices(list(SUFFIXES))} (text also with .gz)"
        )
    return kind


def read_rows(path: Path, encoding: str = "utf-8") -> Iterator[tuple[int, list[str]]]:
    """(line number, fields) of every row of a CSV or TSV file, header included; the row begins on that line, from 1.

    Rows without any field are left out. A tab separated file has no quoting.

    Raises:
        UserError: a quotation mark is never closed.
    """
    text = iter(read_lines(path, encoding))
    if table_kind(path) == "tsv":
        for number, line in enumerate(text, start=1):
            if line.strip("\r\n"):
                yield number, line.rstrip("\r\n").split("\t")
        return
    csv.field_size_limit(LONGEST_ROW)
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


def read_table(
    path: Path,
    columns: Sequence[str],
    encoding: str = "utf-8",
    *,
    header: bool = True,
    lists: Collection[str] = (),
) -> TableFile:
    """Read the named columns of a CSV, TSV, Parquet or JSON Lines file (text files also as ``.gz``).

    Args:
        path: the file. Its suffix gives its kind; ``.txt`` is tab separated.
        columns: the names of the columns.
        encoding: the encoding of text files.
        header: whether a CSV or TSV file begins with the names. If not, columns are called ``1``, ``2`` and so on.
        lists: the columns that hold a list in each row.

    Raises:
        UserError: the file is missing, empty, malformed (the message names the line) or lacks a column (the message
            names the columns it has).
    """
    parts = list(read_parts(path, columns, encoding, header=header, lists=lists))
    strays: dict[str, dict[str, int]] = {}
    before = 0
    for part in parts:
        for name, kinds in part.strays.items():
            for kind, row in kinds.items():
                strays.setdefault(name, {}).setdefault(kind, before + row)
        before += len(part)
    joined = {
        name: pa.chunked_array([chunk for part in parts for chunk in part.columns[name].chunks])
        for name in parts[0].columns
    }
    return TableFile(path, joined, parts[0].where, strays)


def read_parts(
    path: Path,
    columns: Sequence[str],
    encoding: str = "utf-8",
    *,
    header: bool = True,
    lists: Collection[str] = (),
) -> Iterator[TableFile]:
    """What `read_table` reads, some of the rows at a time, so that a large file needs little memory.

    The first part's ``where`` finds any row of the file.

    Raises:
        UserError: as in `read_table`, once the part is reached that shows the fault.
    """
    require_files([path], "correct the path")
    kind = table_kind(path)
    wanted = list(dict.fromkeys(columns))
    if not header and kind not in ("csv", "tsv"):
        raise UserError(f"{path}: its columns have names of their own: set dataset.header=both and name them")
    if kind == "parquet":
        where, parts = _parquet_row(path), _parquet_parts(path, wanted)
    elif kind == "json":
        where = _line_of(path, lambda: (number for number, _ in read_json_lines(path, encoding)))
        parts = _json_parts(path, wanted, encoding, lists)
    else:
        skipped = int(header)
        where = _line_of(
            path, lambda: (number for number, _ in islice(read_rows(path, encoding), skipped, None))
        )
        parts = _text_parts(path, wanted, encoding, kind, header)
    before = 0
    for found, strays in parts:
        part = TableFile(path, found, partial(_later_row, where, before), strays)
        if len(part):
            yield part
        before += len(part)
    if not before:
        raise UserError(f"{path} has no rows: give a file with at least one")


def _later_row(where: Callable[[int], str], before: int, row: int) -> str:
    """Where a row of a part is that has so many rows before it."""
    return where(before + int(row))


def column_names(path: Path, encoding: str = "utf-8") -> list[str]:
    """The header of a CSV or TSV file.

    Raises:
        UserError: the file is empty.
    """
    for _, row in read_rows(path, encoding):
        return [name.strip() for name in row]
    raise UserError(f"{path} is empty: give a file with a header line and rows")


def _require_columns(path: Path, wanted: Sequence[str], present: Sequence[str]) -> None:
    missing = [name for name in wanted if name not in present]
    if not missing:
        return
    shown = f"it has {_some(present)}: name one of these in the settings"
    if len(present) == 1 and any(between in present[0] for between in ";\t|,"):
        shown = (
            f"it has one column, {shortened(present[0])}: fields are separated by commas in .csv, by tabs in .tsv and .txt: "
            "rename or convert the file"
        )
    raise UserError(f"{path}: no column {choices(missing)}: {shown}")


def _refuse_repeated(place: str, wanted: Sequence[str], present: Sequence[str]) -> None:
    twice = [name for name in wanted if present.count(name) > 1]
    if twice:
        raise UserError(f"{place}: column {choices(twice)} appears twice: rename one")


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _parquet_row(path: Path) -> Callable[[int], str]:
    return lambda row: f"{path} row {row + 1}"


def _parquet_parts(path: Path, wanted: Sequence[str]) -> Iterator[_Part]:
    try:
        unpacked = Unpacked(path)
        # Texts that repeat stay codes until they are known to be few enough.
        with pyarrow.parquet.ParquetFile(path, read_dictionary=_leaves(path, wanted)) as file:
            _require_columns(path, wanted, file.schema_arrow.names)
            _refuse_repeated(str(path), wanted, file.schema_arrow.names)
            for batch in file.iter_batches(ROWS, columns=list(wanted)):
                for column in batch.columns:
                    unpacked.add(_bytes_of(column))
                yield {name: _plain(pa.chunked_array([batch.column(name)])) for name in wanted}, {}
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(
            f"{path}: not a readable Parquet file ({collapse_spaces(str(error))}): write it again"
        ) from error


def _leaves(path: Path, wanted: Sequence[str]) -> list[str]:
    """The names, in the file's own way, of columns of texts and of what lists of texts hold."""
    with pyarrow.parquet.ParquetFile(path) as file:
        leaves = [file.schema.column(place).path for place in range(len(file.schema))]
        return [
            leaf
            for leaf in leaves
            for name in wanted
            if leaf == name or (leaf.startswith(f"{name}.") and _lists(file.schema_arrow.field(name).type))
        ]


def _lists(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind)


def _bytes_of(column: pa.Array) -> int:
    """The memory of a column whose codes are replaced by their texts."""
    if _lists(column.type):
        return len(column) * 4 + _bytes_of(column.flatten())
    if not pa.types.is_dictionary(column.type):
        return int(column.nbytes)
    texts = column.dictionary
    if not (pa.types.is_string(texts.type) or pa.types.is_binary(texts.type)):
        return len(column) * (int(texts.nbytes) // max(1, len(texts)) + 1)
    return int(pc.sum(pc.take(pc.binary_length(texts), column.indices).cast(pa.int64())).as_py() or 0)


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Categories as their values, and bytes as text if the writer did not mark text as text."""
    if pa.types.is_dictionary(column.type):
        column = pc.cast(column, column.type.value_type)
    if _lists(column.type) and pa.types.is_dictionary(column.type.value_type):
        column = pc.cast(column, pa.list_(column.type.value_type.value_type))
    if pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type):
        with suppress(pa.ArrowInvalid):
            return pc.cast(column, pa.string())
    return column


def _json_parts(path: Path, wanted: Sequence[str], encoding: str, lists: Collection[str]) -> Iterator[_Part]:
    present: dict[str, None] = {}
    records = (record for _, record in read_json_lines(path, encoding))
    while some := list(islice(records, JSON_ROWS)):
        for record in some:
            present.update(dict.fromkeys(record))
        # A list may be missing from as many rows as it likes.
        _require_columns(path, [name for name in wanted if name not in lists], list(present))
        columns: dict[str, pa.ChunkedArray] = {}
        strays: dict[str, dict[str, int]] = {}
        for name in wanted:
            values = [_printed(record.get(name), name in lists) for record in some]
            kinds = strays.setdefault(name, {})
            for row, value in enumerate(values):
                kind = _stray(value)
                if kind is not None:
                    kinds.setdefault(kind, row)
            cells = [None if value is None else as_text(value) for value in values]
            columns[name] = pa.chunked_array([pa.array(cells, pa.string())])
        yield columns, strays
    if present:
        _require_columns(path, wanted, list(present))


def _printed(value: object, is_list: bool) -> object:
    return json.dumps(value, ensure_ascii=False) if is_list and isinstance(value, list) else value


def _stray(value: object) -> str | None:
    """The kind of a JSON value that is neither text nor a number."""
    if isinstance(value, bool):
        return TRUTH
    if isinstance(value, list):
        return OBJECT if any(isinstance(part, dict) for part in value) else LIST
    if isinstance(value, RoundedNumber):
        return ROUNDED
    return OBJECT if isinstance(value, dict) else None


def _line_of(path: Path, numbers: Callable[[], Iterable[int]]) -> Callable[[int], str]:
    """A function that finds the line of a row by reading the file again."""
    return lambda row: f"{path}:{next(islice(numbers(), int(row), None))}"


def _text_parts(
    path: Path, wanted: Sequence[str], encoding: str, kind: str, has_header: bool
) -> Iterator[_Part]:
    header = column_names(path, encoding)
    if not has_header:
        header = [str(number) for number in range(1, len(header) + 1)]
    _require_columns(path, wanted, header)
    _refuse_repeated(f"{path}:1", wanted, header)
    if kind == "csv" and _odd_quotes(path):
        _find_fault(path, encoding, len(header))
    skipped = int(has_header)
    try:
        with ExitStack() as opened:
            source = opened.enter_context(open_bytes(path)) if path.suffix == ".gz" else path
            reader = pyarrow.csv.open_csv(
                source,
                read_options=pyarrow.csv.ReadOptions(
                    encoding=encoding, column_names=header, block_size=LONGEST_ROW
                ),
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
            for batch in opened.enter_context(reader):
                yield {name: pa.chunked_array([batch.column(name)]).slice(skipped) for name in wanted}, {}
                skipped = max(0, skipped - len(batch))
    except (pa.ArrowInvalid, OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        _find_fault(path, encoding, len(header))
        raise UserError(f"{path}: not readable as {kind} ({collapse_spaces(str(error))})") from error


def _odd_quotes(path: Path) -> bool:
    with open_bytes(path) as stream:
        blocks = iter(lambda: stream.read(1 << 20), b"")
        return sum(block.count(b'"') for block in blocks) % 2 == 1


def _find_fault(path: Path, encoding: str, width: int) -> None:
    """Read again, slowly, to find the faulty line: the fast reader skips blank lines, so its numbers are off."""
    for number, row in read_rows(path, encoding):
        if len(row) != width:
            raise UserError(
                f"{path}:{number}: {len(row)} fields where the header has {width}: correct the line"
            )
