from __future__ import annotations

import gzip

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

import mllmrec.data.text
from mllmrec.data.columns import first_seen_codes
from mllmrec.data.tables import read_table
from mllmrec.data.text import read_lines
from mllmrec.errors import UserError


def test_csv_keeps_quoted_commas_and_skips_blank_lines(tmp_path):
    file = tmp_path / "a.csv"
    file.write_text('user,title\nb,"x, y"\n\na,"say ""hi"""\nb,\n', encoding="utf-8")
    table = read_table(file, ["user", "title"])
    assert table.text("title").tolist() == ["x, y", 'say "hi"', ""]
    codes, names = first_seen_codes(table.ids("user"))
    assert codes.tolist() == [0, 1, 0]
    assert names.tolist() == ["b", "a"]


def test_line_numbers_count_blank_lines_and_multi_line_fields(tmp_path):
    file = tmp_path / "a.csv"
    # line 1: header; 2-3: one row over two lines; 4: blank; 5: the row with the bad time
    file.write_text('user,note,time\na,"x\ny",1\n\nb,z,soon\n', encoding="utf-8")
    with pytest.raises(UserError, match=r"a\.csv:5: column time: 'soon'"):
        read_table(file, ["user", "time"]).times("time")


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
def test_ragged_line_is_named(tmp_path, name):
    file = tmp_path / name
    content = b"user,item\na,1\n\nb\n"
    file.write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    with pytest.raises(UserError, match=r":4: 1 fields where the header has 2"):
        read_table(file, ["user"])


def test_unclosed_quotation_mark_does_not_swallow_the_rest(tmp_path):
    file = tmp_path / "a.csv"
    file.write_text('user,item\na,1\nb,"2\nc,3\nd,4\n', encoding="utf-8")
    with pytest.raises(UserError, match=r"a\.csv:3: .*quotation mark"):
        read_table(file, ["user", "item"])


def test_inch_mark_inside_a_field_is_text(tmp_path):
    file = tmp_path / "a.csv"
    file.write_text('item,title\n1,12" ruler\n2,pen\n', encoding="utf-8")
    assert read_table(file, ["title"]).text("title").tolist() == ['12" ruler', "pen"]


def test_missing_column_names_the_present_ones(tmp_path):
    file = tmp_path / "a.tsv"
    file.write_text("user\titem\na\t1\n", encoding="utf-8")
    with pytest.raises(UserError, match="no column when: it has user, item"):
        read_table(file, ["user", "when"])


@pytest.mark.parametrize("content", ["", "user,item\n"])
def test_empty_table(tmp_path, content):
    file = tmp_path / "a.csv"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=r"a\.csv (is empty|has no rows)"):
        read_table(file, ["user"])


def test_other_encoding_names_line_and_byte(tmp_path):
    file = tmp_path / "a.csv"
    # "item\n" is 5 bytes, "a\n" 2, "caf" 3, so the byte of é is number 10
    file.write_bytes("item\na\ncafé\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"a\.csv:3: byte 10 is not utf-8 text"):
        read_table(file, ["item"])
    assert read_table(file, ["item"], encoding="latin-1").text("item").tolist() == ["a", "café"]
    with pytest.raises(UserError, match="unknown encoding 'latin-99'"):
        read_table(file, ["item"], encoding="latin-99")


def test_json_lines_with_a_bad_line(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text('{"user": 1, "tags": ["x", "y"]}\n\n{"user": "b", "time": 2.5}\n', encoding="utf-8")
    table = read_table(file, ["user", "tags", "time"])
    assert table.ids("user").to_pylist() == ["1", "b"]
    assert table.text("tags").tolist() == ["x, y", ""]
    with pytest.raises(UserError, match=r"a\.jsonl:1: column time"):
        table.times("time")
    file.write_text('{"user": 1}\n\n{"user": \n', encoding="utf-8")
    with pytest.raises(UserError, match=r"a\.jsonl:3: not JSON"):
        read_table(file, ["user"])


def test_parquet_times_and_missing_values(tmp_path):
    file = tmp_path / "a.parquet"
    moments = pa.array(np.array(["1970-01-01T00:00:02", "1970-01-01T00:00:01"], dtype="datetime64[ms]"))
    pyarrow.parquet.write_table(pa.table({"user": [7, 8], "when": moments, "rating": [1.5, None]}), file)
    table = read_table(file, ["user", "when", "rating"])
    assert table.ids("user").to_pylist() == ["7", "8"]
    assert table.times("when").tolist() == [2000, 1000]
    with pytest.raises(UserError, match=r"a\.parquet row 2: column rating"):
        table.floats("rating")
    file.write_bytes(b"no parquet")
    with pytest.raises(UserError, match="not a readable Parquet file"):
        read_table(file, ["user"])


def test_fractions_of_seconds_keep_their_order(tmp_path):
    file = tmp_path / "a.csv"
    file.write_text("t\n10.75\n10.25\n", encoding="utf-8")
    assert read_table(file, ["t"]).times("t").tolist() == [10_750_000, 10_250_000]
    file.write_text("t\n3.0\n2\n", encoding="utf-8")
    assert read_table(file, ["t"]).times("t").tolist() == [3, 2]


def test_archive_cut_short(tmp_path):
    file = tmp_path / "a.jsonl.gz"
    file.write_bytes(gzip.compress(b'{"a": 1}\n' * 9)[:-9])
    with pytest.raises(UserError, match=r"a\.jsonl\.gz: broken after line"):
        list(read_lines(file))


@pytest.mark.parametrize("name", ["a.csv.gz", "a.tsv.gz", "a.jsonl.gz"])
def test_text_that_unpacks_without_end_is_refused(tmp_path, monkeypatch, name):
    monkeypatch.setattr(mllmrec.data.text, "UNPACKED_FREELY", 100_000)
    file = tmp_path / name
    header = b"" if "json" in name else b"user\n"
    # One line of ten million letters packs into about ten thousand bytes.
    file.write_bytes(gzip.compress(header + b"a" * 10_000_000))
    with pytest.raises(UserError, match=r"a\..*\.gz: unpacks to more than 200 times its size"):
        read_table(file, ["user"])
    # Rows that differ do not pack as well.
    rows = b"".join(b"%d\n" % number for number in range(100_000))
    file.write_bytes(gzip.compress(header + rows))
    if "json" not in name:
        assert len(read_table(file, ["user"])) == 100_000


@pytest.mark.parametrize("kind", [pa.string(), pa.binary(), pa.list_(pa.string())], ids=str)
def test_parquet_that_unpacks_without_end_is_refused(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(mllmrec.data.text, "UNPACKED_FREELY", 100_000)
    file = tmp_path / "a.parquet"
    several = pa.types.is_list(kind)
    # Two thousand times the same text of a million letters: two thousand million bytes.
    text = pa.array(["a" * 1_000_000], pa.string() if several else kind)
    codes = pa.array([0] * 2_000, pa.int32())
    column = pa.DictionaryArray.from_arrays(codes, text)
    if several:
        column = pa.ListArray.from_arrays(pa.array(range(2_001), pa.int32()), column)
    pyarrow.parquet.write_table(pa.table({"user": column}), file, compression="zstd", store_schema=False)
    assert file.stat().st_size < 2_000
    with pytest.raises(UserError, match=r"a\.parquet: unpacks to more than 200 times its size"):
        read_table(file, ["user"])
    rows = [f"user {number}" for number in range(20_000)]
    rows = [[row, "b"] for row in rows] if several else rows
    pyarrow.parquet.write_table(pa.table({"user": rows}), file)
    assert read_table(file, ["user"]).columns["user"].to_pylist() == rows


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_column_that_stands_twice(tmp_path, kind):
    file = tmp_path / f"a.{kind}"
    if kind == "csv":
        file.write_text("user,item,user,x,x\na,1,b,2,3\n", encoding="utf-8")
    else:
        columns = [pa.array([value]) for value in ("a", "1", "b", "2", "3")]
        pyarrow.parquet.write_table(pa.table(columns, names=["user", "item", "user", "x", "x"]), file)
    with pytest.raises(UserError, match=rf"a\.{kind}.*: column user appears twice"):
        read_table(file, ["user", "item"])
    assert read_table(file, ["item"]).ids("item").to_pylist() == ["1"]


def test_a_parquet_column_with_a_point_in_its_name(tmp_path):
    nested = pa.array([{"id": "no"}])
    table = pa.table({"user.id": ["a"], "user": nested})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    assert read_table(tmp_path / "a.parquet", ["user.id"]).ids("user.id").to_pylist() == ["a"]
