"""Files of any content are read or refused with a message; what is written is read back as it was."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hostile import item_ids, texts
from hypothesis import example, given
from hypothesis import strategies as st

from mllmrec.cache import GrowingFile, fingerprint, write_json
from mllmrec.data.amazon_beauty import _read_meta
from mllmrec.data.columns import MISSING
from mllmrec.data.printed_lists import printed_list
from mllmrec.data.reviews import read_reviews
from mllmrec.data.tables import read_table
from mllmrec.data.tabular import Tabular
from mllmrec.data.text import collapse_spaces, read_json, read_json_lines, read_lines
from mllmrec.errors import UserError
from mllmrec.evaluation.records import StageRecords, read_stage, write_stage
from mllmrec.run.log_rows import read_log, write_log
from mllmrec.run.settings import read_settings

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=True) | texts(3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts(2), inner, max_size=3),
    max_leaves=6,
)
IDS = item_ids().filter(lambda text: text not in MISSING and len(text) <= 500)


@st.composite
def contents(draw: st.DrawFn) -> bytes:
    """A file that almost is a table, or is anything."""
    rows = draw(st.lists(st.lists(texts(2), min_size=1, max_size=4), max_size=4))
    lines = [",".join(row) for row in rows] + [
        json.dumps(
            {"user_id": draw(JSON), "item_id": draw(JSON), "title": draw(JSON), "timestamp": draw(JSON)}
        )
        for _ in range(draw(st.integers(0, 2)))
    ]
    header = draw(
        st.sampled_from(["user_id,item_id,timestamp,title", "user_id\titem_id\ttimestamp\ttitle", ""])
    )
    whole = "\n".join([header, *lines])
    return draw(st.just(whole.encode()) | st.binary(max_size=60) | st.just(whole.encode("utf-16")))


def refusal(read: Callable[[], object]) -> str:
    """What a reader says if it refuses; any other exception passes."""
    try:
        read()
    except UserError as error:
        return str(error)
    return ""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path


@given(
    content=contents(), suffix=st.sampled_from([".csv", ".tsv", ".jsonl", ".parquet", ".csv.gz", ".jsonl.gz"])
)
def test_a_table_is_read_or_refused(place: Path, content: bytes, suffix: str) -> None:
    file = place / f"table{suffix}"
    file.write_bytes(content)

    def read_all() -> None:
        table = read_table(file, ["user_id", "item_id", "timestamp", "title"])
        for read in (table.ids, table.text, table.floats, table.times, table.id_lists):
            for name in ("user_id", "timestamp"):
                with suppress(UserError):
                    read(name)

    said = refusal(read_all)
    assert not said or str(file) in said


@given(content=contents())
def test_other_files_are_read_or_refused(place: Path, content: bytes) -> None:
    file = place / "file"
    file.write_bytes(content)
    for read in (
        lambda: list(read_lines(file)),
        lambda: list(read_json_lines(file)),
        lambda: read_json(file, dict, "an object"),
        lambda: read_reviews(file, "user_id", "item_id", "timestamp", "title"),
        lambda: _read_meta(file, {"1": 0}),
        lambda: read_settings(file),
    ):
        said = refusal(read)
        assert not said or str(file) in said


@given(texts(12))
def test_a_printed_list_is_read_or_refused(text: str) -> None:
    with suppress(ValueError):
        assert all(isinstance(one, str) for one in printed_list(text))


@given(st.lists(texts(3), max_size=5))
def test_lists_that_python_printed_are_read_back(elements: list[str]) -> None:
    assert printed_list(str(elements)) == elements


ROWS = st.lists(st.tuples(IDS, texts()), min_size=1, max_size=6, unique_by=lambda row: row[0])


@given(rows=ROWS, kind=st.sampled_from(["csv", "jsonl", "parquet"]))
def test_a_table_is_read_as_it_was_written(place: Path, rows: list[tuple[str, str]], kind: str) -> None:
    file = place / f"items.{kind}"
    ids, titles = map(list, zip(*rows, strict=True))
    if kind == "csv":
        with file.open("w", encoding="utf-8", newline="") as stream:
            csv.writer(stream).writerows([("item_id", "title"), *rows])
    elif kind == "jsonl":
        lines = [json.dumps({"item_id": item, "title": title}) for item, title in rows]
        file.write_text("\n".join(lines), encoding="utf-8")
    else:
        pq.write_table(pa.table({"item_id": ids, "title": titles}), file)
    table = read_table(file, ["item_id", "title"])
    assert table.ids("item_id").to_pylist() == ids
    assert table.text("title").tolist() == [collapse_spaces(title) for title in titles]


@given(rows=ROWS, order=st.randoms())
def test_a_dataset_of_any_names_is_loaded_whole(place: Path, rows: list[tuple[str, str]], order) -> None:
    ids = [item for item, _ in rows]
    order.shuffle(ids)
    with (place / "items.csv").open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([("item_id", "title"), *rows])
    with (place / "ratings.csv").open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([("user_id", "item_id"), *(("u", item) for item in ids)])
    raw = Tabular(
        interactions=str(place / "ratings.csv"), items=str(place / "items.csv"), time_column=None
    ).load()
    assert raw.items.ids[raw.interactions.items].tolist() == ids


@given(
    records=st.lists(st.dictionaries(texts(2), JSON, min_size=1, max_size=3), max_size=4),
    torn=st.integers(0, 9),
)
def test_a_growing_file_keeps_every_whole_record(place: Path, records: list[dict], torn: int) -> None:
    file = place / "store.jsonl"
    file.unlink(missing_ok=True)
    kept = [record for record in records if "identity" not in record]
    for record in kept:
        GrowingFile(file, {"made": "here"}).append(record)
    assert fingerprint([*GrowingFile(file, {}).records()]) == fingerprint(kept)
    if kept and torn:
        file.write_bytes(file.read_bytes()[:-torn])
        GrowingFile(file, {"made": "here"}).append({"last": 1})
        found = [*GrowingFile(file, {}).records()]
        assert found[-1] == {"last": 1}
        assert fingerprint(found[:-1]) in (fingerprint(kept), fingerprint(kept[:-1])) or torn > 1


@given(value=st.dictionaries(texts(2), texts(), max_size=4))
def test_json_is_read_as_it_was_written(place: Path, value: dict[str, str]) -> None:
    write_json(place / "a.json", value)
    assert read_json(place / "a.json", dict, "an object") == value


@given(value=st.dictionaries(texts(2), JSON, max_size=3), order=st.randoms())
def test_a_key_does_not_depend_on_the_order_of_its_names(value: dict, order) -> None:
    names = list(value)
    order.shuffle(names)
    assert fingerprint({name: value[name] for name in names}) == fingerprint(value)
    assert fingerprint({**value, "\x00more": 1}) != fingerprint(value)


# No number and no name of a phase holds a carriage return, which the csv module leaves unquoted.
VALUES = texts().map(lambda text: text.replace("\r", ""))
COLUMNS = st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=4)


@given(rows=st.lists(st.dictionaries(COLUMNS, VALUES, min_size=1, max_size=3), min_size=1, max_size=4))
def test_a_log_is_read_as_it_was_written(place: Path, rows: list[dict[str, str]]) -> None:
    write_log(place / "log.csv", rows)
    assert read_log(place / "log.csv") == [
        {key: value for key, value in row.items() if value} for row in rows
    ]


@example(users=["1", "1\x00"], said="\x00", rank=1)  # numpy's own strings would make the two ids one
@given(users=st.lists(texts(), min_size=1, max_size=4), said=texts(), rank=st.integers(1, 9) | st.none())
def test_the_results_of_users_are_read_as_they_were_written(
    place: Path, users: list[str], said: str, rank
) -> None:
    file, size = place / "per_user.parquet", len(users)
    file.unlink(missing_ok=True)
    ranks = np.full(size, np.nan if rank is None else rank)
    with write_stage(file, "sft") as writer:
        writer.append(
            StageRecords(
                users, [said] * size, ranks, [[said, "x"]] * size, np.full(size, 10), texts=[said] * size
            )
        )
    found = read_stage(file, "sft")
    assert list(found.user_ids) == users
    assert np.array_equal(found.ranks, ranks, equal_nan=True)
    assert [list(one) for one in found.rankings] == [[said, "x"]] * size
    assert list(found.texts) == [said] * size


def test_the_csv_module_reads_what_is_written_here() -> None:
    # Guards the strategy: it writes carriage returns and quotes that only quoting keeps.
    stream = io.StringIO()
    csv.writer(stream).writerow(['a"\r', "b,\n"])
    assert next(csv.reader(io.StringIO(stream.getvalue(), newline=""))) == ['a"\r', "b,\n"]
