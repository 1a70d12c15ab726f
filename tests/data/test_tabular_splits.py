from __future__ import annotations

import json
from time import perf_counter

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

from mllmrec.data.base import NO_TARGET, TEST, TRAIN, VALIDATION
from mllmrec.data.filters import Filters, build_interactions
from mllmrec.data.published import PublishedSamples, stitch_samples
from mllmrec.data.splits import Given
from mllmrec.data.tabular import Tabular
from mllmrec.errors import UserError

# MiniOneRec's columns. The histories of A1 and A2 are published in full.
HEADER = "user_id,history_item_title,item_title,history_item_id,item_id,history_item_sid,item_sid"
TRAIN_ROWS = """A1,"['Tape, clear']",Pen,[0],1,['<a_1>'],<a_2>
A1,"['Tape, clear', 'Pen']",Pen,"[0, 1]",1,"['<a_1>', '<a_2>']",<a_2>
A2,['Pen'],"Ink, red",[1],2,['<a_2>'],<a_3>
"""
VALID_ROWS = """A1,"['Tape, clear', 'Pen', 'Pen']","Ink, red","[0, 1, 1]",2,"['<a_1>', '<a_2>', '<a_2>']",<a_3>
"""
TEST_ROWS = """A1,"['Tape, clear', 'Pen', 'Pen', 'Ink, red']","Tape, clear","[0, 1, 1, 2]",0,"[]",<a_1>
A3,['Pen'],Pen,[1],1,['<a_2>'],<a_2>
"""


@pytest.fixture
def published(tmp_path):
    for name, rows in (("train", TRAIN_ROWS), ("valid", VALID_ROWS), ("test", TEST_ROWS)):
        (tmp_path / f"{name}.csv").write_text(f"{HEADER}\n{rows}", encoding="utf-8")
    # Its item file has no header. The columns are semantic id, title, item id, separated by tabs.
    (tmp_path / "info.txt").write_text(
        "<a_1>\tTape, clear\t0\n<a_2>\tPen\t1\n<a_3>\tInk, red\t2\n", encoding="utf-8"
    )
    return tmp_path


def load(folder, suffix=".csv", **settings):
    settings = {
        "items": "info.txt",
        "train": f"train{suffix}",
        "validation": f"valid{suffix}",
        "test": f"test{suffix}",
        "history_column": "history_item_id",
        "items_id_column": 3,
        "title_column": 2,
        "header": "interactions",
        **settings,
    }
    for name in ("items", "train", "validation", "test"):
        settings[name] = settings[name] and str(folder / settings[name])
    return Tabular(**settings).load()


def samples_of(data):
    """(user, history, target) by split, as item ids."""
    items, interactions, _ = build_interactions(data, Filters(min_length=1, repeats="all"), seed=0)
    splits = Given(windows="sliding")(interactions)
    return {
        name: [
            (split.user_id(i), items.ids[split.history(i)].tolist(), str(items.ids[split.target(i)]))
            for i in range(len(split))
        ]
        for name, split in splits.items()
    }


SAMPLES = {
    "train": [("A1", ["0"], "1"), ("A1", ["0", "1"], "1"), ("A2", ["1"], "2")],
    "validation": [("A1", ["0", "1", "1"], "2")],
    "test": [("A1", ["0", "1", "1", "2"], "0"), ("A3", ["1"], "1")],
}


def test_minionerec_files_give_back_their_rows(published):
    data = load(published)
    assert data.items.ids.tolist() == ["0", "1", "2"]
    assert data.items.titles.tolist() == ["Tape, clear", "Pen", "Ink, red"]
    # A1 has five interactions, not the 1 + 2 + 3 + 4 of its histories plus the targets.
    assert data.interactions.targets.tolist() == [
        *[NO_TARGET, TRAIN, TRAIN, VALIDATION, TEST],
        *[NO_TARGET, TRAIN],
        *[NO_TARGET, TEST],
    ]
    assert samples_of(data) == SAMPLES


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_lists_of_other_formats_say_the_same(published, kind):
    for name in ("train", "valid", "test"):
        rows = pyarrow.csv.read_csv(published / f"{name}.csv").to_pylist()
        rows = [{**row, "history_item_id": json.loads(row["history_item_id"])} for row in rows]
        if kind == "parquet":
            pyarrow.parquet.write_table(pa.Table.from_pylist(rows), published / f"{name}.parquet")
        else:
            lines = "".join(json.dumps(row) + "\n" for row in rows)
            (published / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    assert samples_of(load(published, f".{kind}")) == SAMPLES


def test_files_without_header_name_columns_by_number(published):
    for name in ("train", "valid", "test"):
        file = published / f"{name}.csv"
        file.write_text(file.read_text(encoding="utf-8").split("\n", 1)[1], encoding="utf-8")
    columns = {"user_column": 1, "history_column": 4, "item_column": 5}
    assert samples_of(load(published, header="none", **columns)) == SAMPLES
    # Row 1 is line 1.
    (published / "test.csv").write_text('A1,t,t,"[0, 1",2,x,x\n', encoding="utf-8")
    with pytest.raises(UserError, match=r"test\.csv:1: column 4: '\[0, 1' is not a list"):
        load(published, header="none", **columns)
    with pytest.raises(UserError, match=r"no column 9: it has 1, 2, 3, 4, 5, 6, 7"):
        load(published, header="none", **{**columns, "user_column": 9})
    with pytest.raises(
        UserError, match=r"dataset\.user_column=user_id, .*item_column=item_id with dataset\.header=none"
    ):
        load(published, header="none", history_column=4)


def test_unknown_items_of_histories(published):
    (published / "test.csv").write_text(
        f'{HEADER}\nA3,x,x,"[1, 9, 2]",8,x,x\nA4,x,x,"[9, 1]",2,x,x\n', encoding="utf-8"
    )
    with pytest.raises(
        UserError, match=r"2 interactions with items .*9 \(.*test\.csv:2\), 9 \(.*test\.csv:3\)"
    ):
        load(published)
    data = load(published, unknown_items="drop")
    # Dropped are the two 9s, and A3's row because of its target.
    assert data.skipped == {"interactions with unknown items": 3}
    assert samples_of(data)["test"] == [("A4", ["1"], "2")]


def test_rows_of_interactions_become_targets_with_what_came_before(published):
    rows = {"train": ["u,0,10", "u,1,20", "v,2,5"], "valid": ["u,2,30"], "test": ["u,0,40", "v,1,6"]}
    for name, lines in rows.items():
        (published / f"{name}.csv").write_text(
            "\n".join(["user_id,item_id,timestamp", *lines]) + "\n", encoding="utf-8"
        )
    expected = {
        "train": [("u", ["0"], "1")],
        "validation": [("u", ["0", "1"], "2")],
        "test": [("u", ["0", "1", "2"], "0"), ("v", ["2"], "1")],
    }
    for time in ("timestamp", None):
        data = load(published, history_column=None, time_column=time)
        assert data.interactions.user_ids.tolist() == ["u", "v"]
        assert samples_of(data) == expected


def test_without_a_validation_file_train_users_are_held_out(published):
    splits = samples_of(load(published, validation=None))
    # A tenth of two users is one.
    assert len({user for user, *_ in splits["validation"]}) == 1
    assert splits["test"] == SAMPLES["test"]


def test_files_of_a_split_go_together(published):
    with pytest.raises(UserError, match=r"a published split is dataset\.train and dataset\.test"):
        load(published, test=None)
    with pytest.raises(UserError, match=r"missing file .*none\.csv.*dataset\.validation"):
        load(published, validation="none.csv")
    pyarrow.parquet.write_table(pa.table({"a": [1]}), published / "a.parquet")
    with pytest.raises(UserError, match=r"dataset\.header=both and name them"):
        load(published, items="a.parquet")


def test_a_hundred_thousand_rows_are_stitched_in_seconds():
    # 10,000 users with ten rows each; the histories hold the latest ten of 1 to 10 items.
    lengths = np.tile(np.arange(1, 11), 10_000)
    begin = perf_counter()
    rows = stitch_samples(
        PublishedSamples(
            np.arange(10_000).astype(str).astype(object),
            np.repeat(np.arange(10_000, dtype=np.int32), 10),
            np.concatenate([[0], np.cumsum(lengths)]),
            np.concatenate([np.arange(length, dtype=np.int32) for length in lengths.tolist()]),
            lengths.astype(np.int32),
            np.zeros(100_000, dtype=np.int8),
        )
    )
    assert len(rows.items) == 110_000
    assert perf_counter() - begin < 10
