"""Reading text files line by line, and small text functions that all loaders share."""

from __future__ import annotations

import codecs
import gzip
import html
import io
import json
import zlib
from collections.abc import Iterable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar

from mllmrec.errors import UserError

T = TypeVar("T")

# Packing shrinks tables to about a tenth. A file that unpacks to more than this was made to fill a machine's memory.
MOST_PER_BYTE, UNPACKED_FREELY = 200, 2**30


def require_files(paths: Iterable[Path], remedy: str) -> None:
    """Raise if any of ``paths`` is absent.

    Raises:
        UserError: a file is absent. The message names every absent file and ends with ``remedy``.
    """
    missing = [str(path) for path in paths if not path.is_file()]
    if missing:
        raise UserError(f"missing file{'s' if len(missing) > 1 else ''} {', '.join(missing)}: {remedy}")


def collapse_spaces(text: str) -> str:
    """``text`` on one line, without spaces at the ends and without doubled spaces."""
    return " ".join(text.split())


def plain_text(value: object) -> str:
    """Text of a web page on one line, with HTML entities resolved; "" if ``value`` is not text."""
    return collapse_spaces(html.unescape(value)) if isinstance(value, str) else ""


def join_details(parts: Iterable[str]) -> str:
    """The known details of an item as one text: ``"OPI, Nail Polish"``. Empty parts are left out."""
    return ", ".join(part for part in parts if part)


def as_text(value: object) -> str:
    """A cell as text. Lists are joined with commas, a missing value (NaN too) is "", and 1999.0 is ``1999``."""
    if value is None or value != value:
        return ""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return str(int(value))
    if isinstance(value, list | tuple):
        return join_details(as_text(part) for part in value)
    return str(value)


class Unpacked:
    """Counts what a packed file unpacks to."""

    def __init__(self, path: Path) -> None:
        self._path, self._count = path, 0
        self._most = max(UNPACKED_FREELY, MOST_PER_BYTE * path.stat().st_size)

    def add(self, count: int) -> None:
        """Count more bytes.

        Raises:
            UserError: there are absurdly more of them than in the file.
        """
        self._count += count
        if self._count > self._most:
            raise UserError(
                f"{self._path}: unpacks to more than {MOST_PER_BYTE} times its size ({self._count} bytes so far): if that "
                "is as it should be, unpack it yourself, as .csv or .jsonl, and name the unpacked file"
            )


class _Unpacking(io.RawIOBase):
    """The unpacked bytes of a ``.gz`` file. Reading raises if there are absurdly more of them than in the file."""

    def __init__(self, path: Path) -> None:
        self._stream, self._unpacked = gzip.GzipFile(path, "rb"), Unpacked(path)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        block = self._stream.read(len(buffer))
        buffer[: len(block)] = block
        self._unpacked.add(len(block))
        return len(block)

    def close(self) -> None:
        self._stream.close()
        super().close()


def open_bytes(path: Path) -> io.BufferedReader:
    """Open a file for reading; a file with a name ending in ``.gz`` is unpacked on the way.

    Reading raises `UserError` if a packed file unpacks without end.
    """
    return io.BufferedReader(_Unpacking(path), 1 << 20) if path.suffix == ".gz" else path.open("rb")


def read_lines(path: Path, encoding: str = "utf-8") -> Iterator[str]:
    """Every line of a text file, blank lines too, with its line end; ``.gz`` is unpacked on the way.

    Lines end with a line feed. In a file without line feeds they end with a carriage return.

    Raises:
        UserError: the file cannot be read, its bytes do not fit ``encoding`` (the message names line and byte), or the
            archive is cut short.
    """
    offset = number = 0
    wide = False  # a character takes several bytes, and one of them may look like a line end
    try:
        wide = "\n".encode(encoding) != b"\n"
        with open_bytes(path) as stream:
            if wide:
                with io.TextIOWrapper(stream, encoding, newline="\n") as text:
                    for line in text:
                        yield line
                        number += 1
                return
            for number, raw in enumerate(_byte_lines(stream), start=1):
                line = raw.decode(encoding)
                yield line.removeprefix("\ufeff") if number == 1 else line
                offset += len(raw)
    except UnicodeError as error:
        place = (
            f"{path}:{number}: byte {offset + error.start} is"
            if isinstance(error, UnicodeDecodeError) and not wide
            else f"{path}:{number + 1}:"
        )
        raise UserError(
            f"{place} not {encoding} text: save the file in that encoding or name its own, for example encoding: "
            f"{_likely_encoding(path)}"
        ) from error
    except LookupError as error:
        raise UserError(
            f"unknown encoding {encoding!r}: use one that Python knows, such as utf-8 or latin-1"
        ) from error
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(
            f"{path}: broken after line {number} ({error}): fetch or pack the file again"
        ) from error
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror}): correct its permissions or fetch it again"
        ) from error


def _byte_lines(stream: io.BufferedReader) -> Iterator[bytes]:
    for number, line in enumerate(stream):
        if number == 0 and b"\r" in line and not line.endswith(b"\n"):
            yield from line.splitlines(keepends=True)
        else:
            yield line


def _likely_encoding(path: Path) -> str:
    with open_bytes(path) as stream:
        begin = stream.read(2)
    return "utf-16" if begin in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "latin-1"


def read_json_lines(path: Path, encoding: str = "utf-8") -> Iterator[tuple[int, dict[str, object]]]:
    """(line number from 1, record) of every line that is not blank.

    Numbers with a fraction or an exponent are returned as the text in the file, since doubles would lose digits. If
    they are whole, they are written as whole numbers (1.0 and 1 are one id). NaN is not JSON but occurs in files; it
    is a missing value.

    Raises:
        UserError: a line is not a JSON object, or has a field twice.
    """
    for number, line in enumerate(read_lines(path, encoding), start=1):
        if not line.strip():
            continue
        try:
            record = _DECODER.decode(line)
            if "\\ud" in line.lower():
                json.dumps(record, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise UserError(
                f"{path}:{number}: half of a surrogate pair, such as \\ud83d alone, is not text: correct the line"
            ) from error
        except (RecursionError, ValueError) as error:
            raise _not_json(error, f"{path}:{number}", "line") from error
        if not isinstance(record, dict):
            raise UserError(
                f"{path}:{number}: expected one JSON object per line, found {type(record).__name__}"
            )
        yield number, record


def read_json(path: Path, kind: type[T], expected: str) -> T:
    """The one JSON value that a file holds.

    Args:
        path: the file, in UTF-8.
        kind: the type that the value must have, list or dict.
        expected: that type in words, for messages.

    Raises:
        UserError: the file is not JSON, holds another value, or has a field twice.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_once)
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: byte {error.start} is not UTF-8: convert the file to UTF-8") from error
    except (RecursionError, ValueError) as error:
        place = f"{path}:{error.lineno}" if isinstance(error, json.JSONDecodeError) else str(path)
        raise _not_json(error, place, "file") from error
    if not isinstance(value, kind):
        raise UserError(f"{path}: expected {expected}, found a {type(value).__name__}")
    return value


class _Twice(ValueError):
    """An object of a JSON file has two fields of one name."""


def _not_json(error: RecursionError | ValueError, place: str, part: str) -> UserError:
    """The error to raise for what the decoder made of a ``part`` of a file: a line, or all of it."""
    if isinstance(error, _Twice):
        return UserError(f"{place}: {error}: keep one of them")
    if isinstance(error, RecursionError):
        return UserError(f"{place}: nested too deeply: correct or remove the {part}")
    reason = f"{error.msg}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else error
    return UserError(f"{place}: not JSON ({reason}): correct or remove the {part}")


class RoundedNumber(str):
    """A JSON number with a fraction or an exponent, too large for its last digits to be known."""

    __slots__ = ()


def number_text(text: str) -> str:
    """A number with a fraction or an exponent, written as an id: 1.0 is ``1``, and 2.5 stays as it is."""
    number = Decimal(text)
    if abs(number) >= 2**53:
        return RoundedNumber(text)
    return str(int(number)) if number == number.to_integral_value() else text


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    record = dict(pairs)
    if len(record) < len(pairs):
        names = [name for name, _ in pairs]
        raise _Twice(f"{next(name for name in names if names.count(name) > 1)!r} appears twice")
    return record


_DECODER = json.JSONDecoder(parse_float=number_text, parse_constant=lambda _: None, object_pairs_hook=_once)
