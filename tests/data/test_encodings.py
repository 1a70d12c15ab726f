from __future__ import annotations

import gzip
import os
from pathlib import Path

import pytest

from mllmrec.data.tables import read_table
from mllmrec.data.text import read_lines
from mllmrec.errors import UserError

ROWS = 'user,title\na,"x, é"\nb,日本\n'


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32"])
@pytest.mark.parametrize("pack", [False, True])
def test_encodings_of_two_and_four_bytes(tmp_path, encoding, pack):
    file = tmp_path / ("a.csv.gz" if pack else "a.csv")
    content = ROWS.encode(encoding)
    file.write_bytes(gzip.compress(content) if pack else content)
    table = read_table(file, ["user", "title"], encoding)
    assert table.ids("user").to_pylist() == ["a", "b"]
    assert table.text("title").tolist() == ["x, é", "日本"]
    assert table.where(1).endswith(":3")


def test_utf_16_that_is_not_said_is_recognized(tmp_path):
    (tmp_path / "a.csv").write_bytes(ROWS.encode("utf-16"))
    with pytest.raises(UserError, match=r"a\.csv:1: byte 0 is not utf-8 text: .* encoding: utf-16"):
        read_table(tmp_path / "a.csv", ["user"])
    (tmp_path / "a.csv").write_bytes(ROWS.encode("utf-16")[:-1])
    with pytest.raises(UserError, match=r"a\.csv:3: .*not utf-16 text"):
        read_table(tmp_path / "a.csv", ["user"], "utf-16")


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
def test_lines_that_end_as_on_old_macintoshes(tmp_path, name):
    content = ROWS.replace("\n", "\r").encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    table = read_table(tmp_path / name, ["user", "title"])
    assert table.text("title").tolist() == ["x, é", "日本"]
    assert table.where(1).endswith(":3")


def test_a_carriage_return_inside_a_line_ends_nothing(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"a\rb\r\nc\n")
    assert list(read_lines(tmp_path / "a.txt")) == ["a\rb\r\n", "c\n"]


@pytest.mark.parametrize("encoding", ["idna", "hex", "no-such"])
def test_encodings_that_are_none(tmp_path, encoding):
    (tmp_path / "a.csv").write_text(ROWS, encoding="utf-8")
    with pytest.raises(UserError, match=rf"encoding '?{encoding}|not {encoding} text"):
        read_table(tmp_path / "a.csv", ["user"], encoding)


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="no file here that cannot be read")
@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_a_file_that_cannot_be_read_is_named(tmp_path, name):
    os.symlink("/proc/self/mem", tmp_path / name)
    with pytest.raises(UserError, match=rf"{name}: .*Input/output error"):
        read_table(tmp_path / name, ["user"])


def test_a_mark_of_the_byte_order_is_no_part_of_the_first_id(tmp_path):
    (tmp_path / "a.tsv").write_text("\ufeff7\tx\n8\ty\n", encoding="utf-8")
    assert read_table(tmp_path / "a.tsv", ["1"], header=False).ids("1").to_pylist() == ["7", "8"]


def test_a_header_without_end_is_shown_in_part(tmp_path):
    names = [f"column{number}" for number in range(100_000)]
    (tmp_path / "a.csv").write_text(",".join(names) + "\n" + "," * 99_999 + "\n", encoding="utf-8")
    with pytest.raises(
        UserError, match=r"no column user: it has column0, column1, .*and 99980 more"
    ) as caught:
        read_table(tmp_path / "a.csv", ["user"])
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("between", [";", "|", "\t"])
def test_other_separators_are_recognized(tmp_path, between):
    (tmp_path / "a.csv").write_text(ROWS.replace(",", between), encoding="utf-8")
    with pytest.raises(UserError, match=r"no column user: .*separated by commas"):
        read_table(tmp_path / "a.csv", ["user"])
