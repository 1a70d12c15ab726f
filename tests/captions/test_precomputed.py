from __future__ import annotations

import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

from mllmrec.captions import Precomputed
from mllmrec.errors import UserError


def _looked_up(path: Path, **columns: str) -> dict[str, str | None]:
    return dict(Precomputed(path, **columns).caption_images([("7", None), ("8", None), ("9", None)]))


def test_the_released_layout(tmp_path: Path) -> None:
    path = tmp_path / "microlens_captions.json"
    path.write_text(
        json.dumps({"7": {"title": "A", "caption": " red\ncar "}, "8": {"title": "B", "caption": ""}})
    )
    assert _looked_up(path) == {"7": "red car", "8": None, "9": None}


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet"])
def test_tables(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"captions.{suffix}"
    rows = [("7", "red car"), ("8", "")]
    if suffix == "jsonl":
        path.write_text("".join(json.dumps({"sku": item, "text": text}) + "\n" for item, text in rows))
    elif suffix == "parquet":
        pyarrow.parquet.write_table(pa.table({"sku": [7, 8], "text": ["red car", None]}), path)
    else:
        mark = "," if suffix == "csv" else "\t"
        path.write_text("".join(f"{item}{mark}{text}\n" for item, text in [("sku", "text"), *rows]))
    assert _looked_up(path, item_column="sku", caption_column="text") == {
        "7": "red car",
        "8": None,
        "9": None,
    }


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("c.json", b'{"7": {"caption": "a"},\n"8": }', "c.json:2: not JSON (Expecting value, column 6)"),
        ("c.json", b'["a"]', "c.json: expected an object"),
        ("c.json", b'{"7": {"title": "a"}}', "c.json: item 7: expected"),
        ("c.json", b'{"7": {"caption": 3}}', "c.json: item 7: expected"),
        ("c.json", b'{"7": "a", "7": "b"}', "c.json: '7' appears twice: keep one of them"),
        ("c.json", b'{"7": ' + b"9" * 5000 + b"}", "c.json: not JSON (Exceeds the limit"),
        ("c.json", b'{"7": "\xff"}', "c.json: byte 7 is not UTF-8"),
        ("c.csv", b"item_id,caption\n7,a\n7,b\n", "c.csv:2 and"),
        ("c.csv", b"item_id,text\n7,a\n", "no column caption"),
        ("c.dat", b"7 a\n", "unknown kind of table"),
        ("c.json", b"[" * 100_000, "c.json: nested too deeply"),
    ],
)
def test_malformed_files_are_refused(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=re.escape(message)):
        Precomputed(tmp_path / name)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"missing file .*none.json"):
        Precomputed(tmp_path / "none.json")
