from __future__ import annotations

from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet
import pytest

from mllmrec.data.tables import read_table
from mllmrec.errors import UserError


@pytest.fixture
def parquet(tmp_path):
    """A Parquet file of one column, ``x``."""

    def table(column):
        pyarrow.parquet.write_table(pa.table({"x": column}), tmp_path / "a.parquet")
        return read_table(tmp_path / "a.parquet", ["x"])

    return table


@pytest.fixture
def json_lines(tmp_path):
    """A JSON Lines file of one field, ``x``."""

    def table(*values):
        file = tmp_path / "a.jsonl"
        file.write_text("".join(f'{{"x": {value}}}\n' for value in values), encoding="utf-8")
        return read_table(file, ["x"])

    return table


@pytest.mark.parametrize(
    ("column", "ids"),
    [
        (pa.array([2**64 - 1, 0], pa.uint64()), ["18446744073709551615", "0"]),
        # pandas turns whole numbers into doubles if one is missing.
        (pa.array([1.0, 2.5]), ["1", "2.5"]),
        (pa.array([Decimal("7.00"), Decimal("7.50")]), ["7", "7.5"]),
        (pa.array([b"a", "ö".encode()]), ["a", "ö"]),
        (pa.array(["b", "a"]).dictionary_encode(), ["b", "a"]),
        (pa.array(["b", "a"], pa.large_string()), ["b", "a"]),
        (pa.array(["b", "a"], pa.string_view()), ["b", "a"]),
    ],
    ids=lambda value: str(value.type) if isinstance(value, pa.Array) else None,
)
def test_ids_of_many_types(parquet, column, ids):
    assert parquet(column).ids("x").to_pylist() == ids


@pytest.mark.parametrize(
    "column",
    [
        pa.array([[1], [2]]),
        pa.array([{"a": 1}, {"a": 2}]),
        pa.array([[("a", 1)], []], pa.map_(pa.string(), pa.int64())),
        pa.array([5, 4], pa.duration("ns")),
        pa.array([1, 2], pa.time32("s")),
        pa.array([True, False]),
    ],
    ids=lambda column: str(column.type),
)
def test_columns_that_are_no_ids(parquet, column):
    with pytest.raises(UserError, match=r"a\.parquet: column x holds .*: give ids as text or whole numbers"):
        parquet(column).ids("x")


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (pa.array([b"a", b"\xff"]), r"row 2: column x: b'\\xff' is not UTF-8 text"),
        (pa.array([1.0, float("nan")]), r"row 2: column x: nan .* missing"),
        (pa.array([1.0, None]), r"row 2: column x: None is empty"),
        (pa.array([2.0**53, 1.0]), r"row 1: column x: 9007199254740992\.0 is a rounded number"),
        (pa.array(["a", "nan"]), r"row 2: column x: 'nan' .* missing"),
        (pa.array([None, None]), r"row 1: column x: None is empty"),
        (pa.array(["a", "b" * 501]), r"row 2: column x: 'bb.*…b+' is longer than 500 characters"),
        (pa.array(["a", "b\nc"]), r"row 2: column x: 'b\\nc' holds a line end"),
        (pa.array(["a", "b\x00c"]), r"row 2: column x: 'b\\x00c' holds .* controls terminals"),
        (pa.array(["a", "b\u202ec"]), r"row 2: column x: 'b\\u202ec' holds .* controls terminals"),
    ],
)
def test_rows_that_are_no_ids(parquet, column, message):
    with pytest.raises(UserError, match=message):
        parquet(column).ids("x")


def test_json_numbers_are_ids(json_lines):
    # Another file may write 1 where this one writes 1.0. 2^53 is the first double that stands for two whole numbers.
    assert json_lines("1.0", '"1.0"', "18446744073709551616", "-7").ids("x").to_pylist() == [
        "1",
        "1.0",
        "18446744073709551616",
        "-7",
    ]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("[1, 2]", "'1, 2' is a list: give an id as text or a whole number"),
        ('{"id": 1}', "is an object"),
        ("true", "is true or false"),
        ("NaN", "None is empty"),
        ("null", "None is empty"),
        ('"None"', "'None' .* missing"),
        ("1e16", "'1e16' is a rounded number"),
    ],
)
def test_json_values_that_are_no_ids(json_lines, value, message):
    with pytest.raises(UserError, match=rf"a\.jsonl:2: column x: .*{message}"):
        json_lines("1", value).ids("x")


def test_text_of_many_types(parquet, json_lines):
    assert parquet(pa.array([["a", "b"], None])).text("x").tolist() == ["a, b", ""]
    assert parquet(pa.array([b"a", None])).text("x").tolist() == ["a", ""]
    assert parquet(pa.array([float("nan"), 1999.0])).text("x").tolist() == ["", "1999"]
    assert json_lines("NaN", '["a", "b"]', "1999.0").text("x").tolist() == ["", "a, b", "1999"]


def test_values_that_are_no_text(parquet, json_lines):
    with pytest.raises(UserError, match=r"a\.parquet: column x holds struct<a: int64>"):
        parquet(pa.array([{"a": 1}, None])).text("x")
    with pytest.raises(UserError, match=r"a\.parquet: column x holds list<"):
        parquet(pa.array([[{"a": 1}], None])).text("x")
    with pytest.raises(UserError, match=r"a\.parquet row 2: column x: b'\\xff' is not UTF-8"):
        parquet(pa.array([b"a", b"\xff"])).text("x")
    with pytest.raises(UserError, match=r"a\.jsonl:2: column x: .* is an object"):
        json_lines('"a"', '[{"a": 1}]').text("x")


@pytest.mark.parametrize(
    "column", [pa.array([[1.0]]), pa.array([{"a": 1.0}]), pa.array([5], pa.duration("s"))]
)
def test_columns_that_are_no_numbers(parquet, column):
    with pytest.raises(UserError, match=r"a\.parquet: column x holds .*: give numbers"):
        parquet(column).floats("x")


def test_signs_and_points_of_numbers(tmp_path):
    (tmp_path / "a.csv").write_text("x\n+1.5\n.5\n-5.\n007\n", encoding="utf-8")
    assert read_table(tmp_path / "a.csv", ["x"]).floats("x").tolist() == [1.5, 0.5, -5.0, 7.0]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"x": ' + "[" * 100_000 + "]" * 100_000 + "}", "nested too deeply"),
        ('{"x": ' + "9" * 5000 + "}", "not JSON"),
        (r'{"x": "\ud800"}', "half of a surrogate pair"),
        ('{"x": 1, "y": 2, "x": 3}', "'x' appears twice"),
    ],
    ids=["nested", "digits", "surrogate", "twice"],
)
def test_json_that_cannot_be_read_names_the_line(tmp_path, line, message):
    (tmp_path / "a.jsonl").write_text('{"x": 1}\n' + line + "\n", encoding="utf-8")
    with pytest.raises(UserError, match=rf"a\.jsonl:2: .*{message}") as caught:
        read_table(tmp_path / "a.jsonl", ["x"])
    assert len(str(caught.value)) < 400
