"""Tables that are read in parts hold what plain Python finds in them, whatever their kind and wherever a part ends."""

from __future__ import annotations

import csv
import json
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from mllmrec.data.filters import Filters, build_interactions
from mllmrec.data.parts import Parts
from mllmrec.data.splits import LeaveOneOut, Samples, latest_targets
from mllmrec.data.tabular import Tabular
from mllmrec.errors import UserError

NAMES = ("user_id", "item_id", "timestamp", "stars")


@pytest.fixture
def small_parts(monkeypatch):
    """Parts of some three rows."""
    monkeypatch.setattr("mllmrec.data.tables.ROWS", 3)
    monkeypatch.setattr("mllmrec.data.tables.JSON_ROWS", 3)
    monkeypatch.setattr("mllmrec.data.tables.LONGEST_ROW", 64)


def rows(count=200, seed=0):
    """Rows as text: few users and items, so that ids come again in later parts."""
    draw = np.random.default_rng(seed).integers
    return [(f"u{draw(30)}", str(draw(20)), str(draw(1000)), f"{draw(1, 11) / 2}") for _ in range(count)]


def write(folder, kind, table):
    path = folder / f"ratings.{kind}"
    if kind == "parquet":
        columns = dict(zip(NAMES, map(list, zip(*table, strict=True)), strict=True))
        columns["timestamp"] = [int(time) for time in columns["timestamp"]]
        columns["stars"] = [float(star) for star in columns["stars"]]
        pyarrow.parquet.write_table(pa.table(columns), path)
    elif kind == "jsonl":
        path.write_text("".join(json.dumps(dict(zip(NAMES, row, strict=True))) + "\n" for row in table))
    else:
        with path.open("w", newline="") as stream:
            csv.writer(stream, delimiter="\t" if kind == "tsv" else ",").writerows([NAMES, *table])
    return path


def load(folder, path, known=20, **settings):
    (folder / "items.csv").write_text(
        "item_id,title\n" + "".join(f"{item},Thing {item}\n" for item in range(known))
    )
    return Tabular(interactions=str(path), items=str(folder / "items.csv"), **settings).load()


@pytest.mark.parametrize("kind", ["parquet", "csv", "tsv", "jsonl"])
def test_parts_hold_what_the_file_holds(tmp_path, small_parts, kind):
    table = rows()
    found = load(tmp_path, write(tmp_path, kind, table), rating_column="stars").interactions
    first_seen = list(dict.fromkeys(user for user, *_ in table))
    assert found.user_ids.tolist() == first_seen
    assert found.users.tolist() == [first_seen.index(user) for user, *_ in table]
    assert found.items.tolist() == [int(item) for _, item, *_ in table]
    assert found.timestamps.tolist() == [int(time) for *_, time, _ in table]
    assert found.ratings.tolist() == [float(star) for *_, star in table]
    assert found.users.dtype == found.items.dtype == np.int32


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_faults_of_later_parts_are_counted_and_named_by_their_lines(tmp_path, small_parts, kind):
    table = rows()
    path = write(tmp_path, kind, table)
    head = kind == "csv"
    unknown = [row for row, (_, item, *_) in enumerate(table) if int(item) >= 15]
    shown = ", ".join(rf"{table[row][1]} \(.*:{row + 1 + head}\)" for row in unknown[:3])
    with pytest.raises(UserError, match=rf"{len(unknown)} interactions with items .* lacks: {shown}: add"):
        load(tmp_path, path, known=15)
    dropped = load(tmp_path, path, known=15, unknown_items="drop")
    assert dropped.skipped == {"interactions with unknown items": len(unknown)}
    assert dropped.interactions.timestamps.tolist() == [
        int(time) for _, item, time, _ in table if int(item) < 15
    ]
    only = [("u1", "99", str(time), "1") for time in range(9)]
    nothing = load(tmp_path, write(tmp_path, kind, only), unknown_items="drop")
    assert (len(nothing.interactions.users), nothing.skipped) == (0, {"interactions with unknown items": 9})
    table[150] = ("u1", "1", "soon", "1")
    with pytest.raises(UserError, match=rf":{151 + head}: column timestamp: 'soon' is not a number"):
        load(tmp_path, write(tmp_path, kind, table))


def test_times_of_all_parts_share_a_unit(tmp_path, small_parts):
    table = [("u", str(row), str(row), "1") for row in range(12)]
    table[10] = ("u", "10", "9.5", "1")  # whole numbers in three parts, a fraction in the last
    found = load(tmp_path, write(tmp_path, "csv", table)).interactions.timestamps
    assert found.tolist() == [row * 10**6 for row in range(10)] + [9_500_000, 11_000_000]


def reference(table, k, shortest):
    """Users -> items in order, filtered in plain Python, and the funnel's last counts."""
    ordered = sorted(table, key=lambda row: int(row[2]))  # stable: equal times stay in file order
    kept = list({(user, item): None for user, item, *_ in ordered})
    while True:
        users, items = Counter(user for user, _ in kept), Counter(item for _, item in kept)
        core = [(user, item) for user, item in kept if users[user] >= k and items[item] >= k]
        if len(core) == len(kept):
            break
        kept = core
    users = Counter(user for user, _ in kept)
    kept = [(user, item) for user, item in kept if users[user] >= shortest]
    histories = {
        name: [item for user, item in kept if user == name]
        for name in dict.fromkeys(user for user, *_ in table)
        if any(user == name for user, _ in kept)
    }
    return histories, (len(histories), len({item for _, item in kept}), len(kept))


@pytest.mark.parametrize("seed", range(3))
def test_filters_and_samples_are_those_of_plain_python(tmp_path, small_parts, seed):
    table = rows(150, seed)
    raw = load(tmp_path, write(tmp_path, "parquet", table))
    items, found, funnel = build_interactions(raw, Filters(k_core=3, min_length=4), seed=0)
    histories, counts = reference(table, 3, 4)
    assert funnel.rows()[-1][2:] == counts
    assert counts[2] < 150  # something was filtered
    assert found.user_ids.tolist() == list(histories)
    for user, history in enumerate(histories.values()):
        assert items.ids[found.of_user(user)].tolist() == history
    splits = LeaveOneOut(windows="sliding")(found)
    wanted = {name: list(history) for name, history in histories.items()}
    assert [items.ids[part].tolist() for part in splits["train"].parts()] == [
        history[:-2] for history in wanted.values()
    ]
    for split, back in (("test", 1), ("validation", 2)):
        samples = splits[split]
        for index, history in enumerate(wanted.values()):
            assert items.ids[samples.target(index)] == history[-back]
            assert items.ids[samples.history(index)].tolist() == history[:-back]


def test_parts_come_in_the_order_of_the_samples_and_end_with_the_latest_target():
    _, found, _ = build_interactions(raw_of([[0, 1, 2, 3], [1, 2, 3], [2, 0, 1]]), Filters(), seed=0)
    samples = Samples(found, np.array([2, 0, 2, 0], np.int32), np.array([8, 2, 9, 1]))
    assert [part.tolist() for part in samples.parts()] == [[2, 0, 1], [0, 1, 2]]
    assert latest_targets(samples).tolist() == [2, -1, 9]


def test_parts_are_a_sequence_of_arrays():
    parts = Parts.of([np.array([1, 2, 3]), np.array([], int), np.array([4])])
    assert [part.tolist() for part in parts] == [[1, 2, 3], [], [4]]
    assert parts[-1].tolist() == [4]
    assert parts.joined().tolist() == [1, 2, 3, 4]
    assert parts.owners().tolist() == [0, 0, 0, 2]
    assert [part.tolist() for part in parts.without_first()] == [[2, 3], [], []]
    assert [part.tolist() for part in parts.without_last()] == [[1, 2], [], []]
    chosen = parts[np.array([2, 0])]
    assert chosen.joined().tolist() == [4, 1, 2, 3]  # not in the order of the flat array
    assert chosen.lengths.tolist() == [1, 3]
    with pytest.raises(IndexError):
        parts[3]


def raw_of(sequences):
    from mllmrec.data.base import Items, RawData, RawInteractions

    names = np.array([f"u{user}" for user in range(len(sequences))], dtype=object)
    users = np.repeat(np.arange(len(sequences), dtype=np.int32), [len(one) for one in sequences])
    titles = np.array(["Thing"] * 4, dtype=object)
    catalogue = Items(np.array(["0", "1", "2", "3"], dtype=object), titles, titles)
    return RawData(
        "raw", catalogue, RawInteractions(names, users, np.concatenate(sequences).astype(np.int32))
    )
