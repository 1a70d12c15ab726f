"""Columns of times → 64-bit integers that keep their order. If that fails, the row and the reason are given."""

from __future__ import annotations

from decimal import Decimal, localcontext

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?$"
WHOLE = r"^[+-]?\d+$"
LIMIT = 2**63  # the limit of 64-bit integers
EXACT = 2**53  # from here on one double stands for several whole numbers
MOST_DECIMALS = 18

BEYOND = "lies beyond 64-bit integers: give seconds, milli-, micro- or nanoseconds"
ROUNDED = "is a rounded number: so large a time must be written in full, as 64-bit integers"


class NoTime(Exception):
    """A value is not a time, or does not fit a 64-bit integer.

    Args:
        row: counted from 0; None if the whole column has a wrong type.
        reason: completes a sentence that begins with the value or with the column's name.
    """

    def __init__(self, row: int | None, reason: str) -> None:
        super().__init__(reason)
        self.row, self.reason = row, reason


def exact_times(column: pa.ChunkedArray) -> np.ndarray:
    """A column of text, numbers, dates, timestamps or durations as (R,) int64.

    Whole numbers stay as they are, timestamps keep their own unit, and dates become milliseconds. Numbers with a
    fraction are counted in millionths. If millionths are too coarse or do not fit 64 bits, the unit is the power of
    ten that the longest fraction needs.

    Raises:
        NoTime: a value is missing, is not a number or does not fit 64 bits, or is a double so large that neighbouring
            whole numbers look the same.
    """
    kind = column.type
    temporal = pa.types.is_timestamp(kind) or pa.types.is_duration(kind) or pa.types.is_date(kind)
    if temporal or pa.types.is_integer(kind):
        _refuse(pc.is_null(column), "is empty: give a time or remove the row")
        if pa.types.is_date(kind):
            column = pc.cast(column, pa.timestamp("ms"))
        if pa.types.is_uint64(kind):
            _refuse(pc.greater(column, pa.scalar(LIMIT - 1, pa.uint64())), BEYOND)
        return pc.cast(column, pa.int64()).to_numpy()
    if pa.types.is_floating(kind):
        return _doubles(column)
    if pa.types.is_decimal(kind):
        return _text(pc.cast(column, pa.string()))
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind):
        return _text(pc.utf8_trim_whitespace(pc.cast(column, pa.string())))
    raise NoTime(None, f"holds {kind}: give numbers, dates or timestamps")


def whole_times(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Text as 64-bit integers if every value is such a number, which takes less memory; any other column as it is."""
    if not pa.types.is_string(column.type):
        return column
    text = pc.utf8_ltrim(pc.utf8_trim_whitespace(column), characters="+")
    if not pc.all(pc.fill_null(pc.match_substring_regex(text, WHOLE), False)).as_py():
        return column
    try:
        return pc.cast(text, pa.int64())
    except pa.ArrowInvalid:
        return column


def all_rounded(column: pa.ChunkedArray) -> bool:
    """Whether all values (two or more) are text such as ``1.70E+12``, as spreadsheets show long numbers."""
    if len(column) < 2 or not pa.types.is_string(column.type):
        return False
    if not pc.all(pc.match_substring_regex(column, "[0-9.][eE]")).as_py():
        return False
    return all(_is_rounded(Decimal(value)) for value in column.to_pylist())


def _refuse(bad: pa.ChunkedArray, reason: str) -> None:
    row = pc.index(bad, True).as_py()
    if row >= 0:
        raise NoTime(row, reason)


def _doubles(given: pa.ChunkedArray) -> np.ndarray:
    column = pc.cast(given, pa.float64())
    _refuse(pc.invert(pc.fill_null(pc.is_finite(column), False)), "is not a finite number")
    numbers = column.to_numpy()
    if not np.array_equal(numbers, np.floor(numbers)):
        return _decimals(pc.cast(given, pa.string()).to_pylist())
    _refuse(pc.greater_equal(pc.abs(column), float(LIMIT)), BEYOND)
    _refuse(pc.greater_equal(pc.abs(column), float(EXACT)), ROUNDED)
    return numbers.astype(np.int64)


def _text(column: pa.ChunkedArray) -> np.ndarray:
    _refuse(pc.equal(pc.fill_null(column, ""), ""), "is empty: give a time or remove the row")
    _refuse(
        pc.invert(pc.match_substring_regex(column, NUMBER)),
        "is not a number: correct it, and give dates as Unix seconds",
    )
    column = pc.utf8_ltrim(column, characters="+")
    if not pc.all(pc.match_substring_regex(column, WHOLE)).as_py():
        return _decimals(column.to_pylist())
    try:
        return pc.cast(column, pa.int64()).to_numpy()
    except pa.ArrowInvalid:
        return _decimals(column.to_pylist())


def _decimals(values: list[str]) -> np.ndarray:
    """(R,) int64 from decimal numbers, exactly. It is slow, so it is used only where no simpler way works."""
    numbers = [Decimal(value) for value in values]
    places = [_decimal_places(number) for number in numbers]
    for row, number in enumerate(numbers):
        if not -LIMIT <= number < LIMIT:
            raise NoTime(row, BEYOND)
        if abs(number) >= EXACT and _is_rounded(number):
            raise NoTime(row, ROUNDED)
    needed = max(places)
    if needed <= MOST_DECIMALS:
        with localcontext() as context:
            context.prec = 2 * MOST_DECIMALS + 20
            for shift in (max(needed, 6), needed) if needed else (0,):
                scaled = [int(number * 10**shift) for number in numbers]
                if min(scaled) >= -LIMIT and max(scaled) < LIMIT:
                    return np.array(scaled, dtype=np.int64)
    raise NoTime(
        places.index(needed),
        f"has {needed} decimals, and 64-bit integers cannot hold that many for all times: write fewer decimals",
    )


def _decimal_places(number: Decimal) -> int:
    """The number of digits after the point: 2 for 1.25, 1 for 0.50, none for 12 and 1.2e3."""
    _, digits, exponent = number.as_tuple()
    assert isinstance(exponent, int)
    kept = "".join(map(str, digits)).rstrip("0")
    return max(0, len(kept) - len(digits) - exponent) if kept else 0


def _is_rounded(number: Decimal) -> bool:
    """Whether the last digits are not written: true for 1.70e12, false for 1700000000000 and 1.700000000001e12."""
    exponent = number.as_tuple().exponent
    return isinstance(exponent, int) and exponent > 0
