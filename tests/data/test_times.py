from __future__ import annotations

from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet
import pytest

from mllmrec.data.tables import read_table
from mllmrec.errors import UserError


@pytest.fixture
def times(tmp_path):
    """The times of a CSV column, given as text."""

    def read(*values, kind="csv"):
        file = tmp_path / f"a.{kind}"
        if kind == "csv":
            file.write_text("\n".join(["time", *values]) + "\n", encoding="utf-8")
        elif kind == "jsonl":
            file.write_text("".join(f'{{"time": {value}}}\n' for value in values), encoding="utf-8")
        else:
            (column,) = values
            pyarrow.parquet.write_table(pa.table({"time": column}), file)
        return read_table(file, ["time"]).times("time").tolist()

    return read


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_nanoseconds_keep_their_order(times, kind):
    # Doubles of this size are 256 apart, so these three would become one time.
    values = ["1700000000000000003", "1700000000000000001", "1700000000000000002"]
    assert times(*values, kind=kind) == [int(value) for value in values]


def test_the_whole_range_of_64_bits_is_kept(times):
    # 2^63 - 1 and -2^63, with a sign and with leading zeros.
    values = ["9223372036854775807", "-9223372036854775808", "+0000000000000000000005"]
    assert times(*values) == [2**63 - 1, -(2**63), 5]


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
@pytest.mark.parametrize("value", ["9223372036854775808", "-9223372036854775809", "1e300", "9.3e18"])
def test_what_64_bits_do_not_hold_is_refused(times, kind, value):
    line = 3 if kind == "csv" else 2
    with pytest.raises(UserError, match=rf"a\.{kind}:{line}: column time: .* 64"):
        times("5", value, kind=kind)


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_fractions_are_kept_exactly(times, kind):
    # Microseconds with a fraction. Millionths of them do not fit 64 bits, but fewer decimals do.
    assert times("1700000000000000.5", "1700000000000000.25", kind=kind) == [
        170000000000000050,
        170000000000000025,
    ]
    # Seven decimals are finer than a millionth.
    assert times("0.1234567", "2", kind=kind) == [1234567, 20000000]


def test_fractions_that_do_not_fit_are_refused(times):
    # 1.7e9 with ten decimals needs 20 digits; 64 bits hold 18 in full.
    with pytest.raises(UserError, match=r"a\.csv:3: column time: '1700000000\.0000000001' .*fewer decimals"):
        times("1700000000", "1700000000.0000000001")


def test_exponents_are_numbers(times):
    # R writes round numbers this way.
    assert times("1.7e+09", "1700000001") == [1700000000, 1700000001]


def test_exponents_all_over_are_suspect(times, caplog):
    assert times("1.70E+12", "1.71E+12") == [1700000000000, 1710000000000]
    assert "a.csv: column time: every value is in exponent form, such as '1.70E+12'" in caplog.text


def test_doubles_above_their_whole_numbers_are_refused(times):
    assert times(pa.array([2.0**53 - 1, 3.0]), kind="parquet") == [2**53 - 1, 3]
    with pytest.raises(UserError, match=r"a\.parquet row 2: column time: 1\.7e\+18 .*64-bit integers"):
        times(pa.array([3.0, 1.7e18]), kind="parquet")
    with pytest.raises(UserError, match=r"a\.parquet row 1: column time: nan"):
        times(pa.array([float("nan"), 2.0]), kind="parquet")


def test_doubles_with_a_fraction_keep_their_order(times):
    # 0.1 + 0.2 is the double after 0.3; it takes seventeen decimals to tell them apart.
    assert times(pa.array([0.1 + 0.2, 0.3]), kind="parquet") == [30000000000000004, 30000000000000000]


def test_unsigned_decimal_and_elapsed_times(times):
    assert times(pa.array([2**63 - 1, 7], pa.uint64()), kind="parquet") == [2**63 - 1, 7]
    with pytest.raises(UserError, match=r"a\.parquet row 2: column time: 9223372036854775808 .*64"):
        times(pa.array([7, 2**63], pa.uint64()), kind="parquet")
    assert times(pa.array([Decimal("1.50"), Decimal("1.25")]), kind="parquet") == [1500000, 1250000]
    assert times(pa.array([5, 4], pa.duration("ns")), kind="parquet") == [5, 4]


@pytest.mark.parametrize(
    "column",
    [
        pa.array([True, False]),
        pa.array([[1], [2]]),
        pa.array([{"a": 1}, {"a": 2}]),
        pa.array([1, 2], pa.time32("s")),
    ],
    ids=lambda column: str(column.type),
)
def test_columns_that_are_no_times(times, column):
    with pytest.raises(UserError, match=r"a\.parquet: column time holds .*: give"):
        times(column, kind="parquet")


@pytest.mark.parametrize("value", ["true", "[1]", '{"a": 1}'])
def test_json_values_that_are_no_times(times, value):
    with pytest.raises(UserError, match=r"a\.jsonl:2: column time: "):
        times("1", value, kind="jsonl")
