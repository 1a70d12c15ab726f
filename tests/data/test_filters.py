from __future__ import annotations

import time
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mllmrec.data.base import (
    NO_TARGET,
    TEST,
    TRAIN,
    VALIDATION,
    Interactions,
    Items,
    RawData,
    RawInteractions,
)
from mllmrec.data.filters import Filters, build_interactions
from mllmrec.errors import UserError

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"


def raw_data(rows, *, titles=None, timestamps=None, ratings=None, unused=()) -> RawData:
    """Rows are (user, item) in file order; the catalogue lists items in the order of their ids."""
    ids = sorted({item for _, item in rows} | set(unused))
    users = list(dict.fromkeys(user for user, _ in rows))
    titles = titles or {}
    items = Items(
        np.array(ids),
        np.array([titles.get(i, f"title {i}") for i in ids]),
        np.array([""] * len(ids)),
        {"a": Path("a.jpg")},
    )
    interactions = RawInteractions(
        np.array(users),
        np.array([users.index(user) for user, _ in rows], dtype=np.int32),
        np.array([ids.index(item) for _, item in rows], dtype=np.int32),
        None if timestamps is None else np.array(timestamps),
        None if ratings is None else np.array(ratings, dtype=np.float32),
    )
    return RawData("toy", items, interactions)


def sequences(items: Items, interactions: Interactions) -> dict[str, str]:
    return {
        str(name): "".join(items.ids[interactions.of_user(user)])
        for user, name in enumerate(interactions.user_ids)
    }


def test_equal_timestamps_stay_in_file_order():
    # u has c at time 1, then b and a, both at time 2; b comes first in the file.
    rows = [("u", "b"), ("v", "a"), ("u", "c"), ("u", "a"), ("v", "b")]
    items, interactions, _ = build_interactions(raw_data(rows, timestamps=[2, 5, 1, 2, 5]), seed=0)
    assert sequences(items, interactions) == {"u": "cba", "v": "ab"}
    assert interactions.timestamps.tolist() == [1, 2, 2, 5, 5]


def test_without_timestamps_the_file_order_is_the_time_order():
    rows = [("u", "b"), ("v", "a"), ("u", "c"), ("u", "a"), ("v", "b")]
    items, interactions, _ = build_interactions(raw_data(rows), seed=0)
    assert sequences(items, interactions) == {"u": "bca", "v": "ab"}


def test_of_repeated_pairs_the_earliest_in_time_stays():
    # u sees a at 9 (first in the file), b at 2, a at 1: the earliest a is the one at 1.
    rows, times = [("u", "a"), ("u", "b"), ("u", "a")], [9, 2, 1]
    items, interactions, funnel = build_interactions(raw_data(rows, timestamps=times), seed=0)
    assert sequences(items, interactions) == {"u": "ab"}
    assert funnel.dropped["repeats"] == {"users": 0, "items": 0, "interactions": 1}
    items, interactions, funnel = build_interactions(
        raw_data(rows, timestamps=times), Filters(repeats="all"), seed=0
    )
    assert sequences(items, interactions) == {"u": "aba"}
    assert funnel.notes["repeated_pairs_kept"] == 1


def test_k_core_by_hand_needs_several_rounds():
    # 2-core: d has one interaction -> out. Then w has only c left -> out. Then c has only u -> out. u ab, v ab stay.
    rows = [("u", "a"), ("u", "b"), ("u", "c"), ("v", "a"), ("v", "b"), ("w", "c"), ("w", "d")]
    items, interactions, funnel = build_interactions(raw_data(rows, unused=["z"]), Filters(k_core=2), seed=0)
    assert sequences(items, interactions) == {"u": "ab", "v": "ab"}
    assert items.ids.tolist() == ["a", "b"]
    assert funnel.dropped["k_core"] == {"users": 1, "items": 2, "interactions": 3}
    assert list(items.images) == ["a"]


def test_minimum_rating_drops_unrated_rows_too_and_needs_ratings():
    rows = [("u", "a"), ("u", "b"), ("u", "c"), ("u", "d")]
    items, interactions, funnel = build_interactions(
        raw_data(rows, ratings=[4, 3.5, np.nan, 5]), Filters(min_rating=4), seed=0
    )
    assert sequences(items, interactions) == {"u": "ad"}
    assert funnel.dropped["min_rating"]["interactions"] == 2
    with pytest.raises(UserError, match="has no ratings"):
        build_interactions(raw_data(rows), Filters(min_rating=4), seed=0)


def test_lengths_drop_short_users_and_keep_the_latest_rows():
    rows = [("u", i) for i in "abcde"] + [("v", "a"), ("v", "b")]
    items, interactions, funnel = build_interactions(
        raw_data(rows), Filters(min_length=3, max_length=3), seed=0
    )
    assert sequences(items, interactions) == {"u": "cde"}
    assert len(items) == 5  # a and b stay in the catalogue: unused_items=keep
    assert funnel.notes["unused_items"] == 2
    assert [step["step"] for step in funnel.steps] == ["loaded", "repeats", "min_length", "max_length"]
    assert funnel.rows()[0] == ("loaded", "as read", 2, 5, 7)


def test_unused_items_are_dropped_and_codes_renumbered():
    rows = [("u", i) for i in "abcde"]
    items, interactions, _ = build_interactions(
        raw_data(rows), Filters(max_length=3, unused_items="drop"), seed=0
    )
    assert items.ids.tolist() == ["c", "d", "e"]
    assert interactions.items.tolist() == [0, 1, 2]
    assert items.images == {}


def test_untitled_items_get_a_name_or_go_and_repeated_titles_are_counted():
    rows = [("u", "a"), ("u", "b"), ("u", "c"), ("u", "d")]
    titles = {"a": " ", "b": "Soap", "c": "Soap"}
    items, _, funnel = build_interactions(raw_data(rows, titles=titles), seed=0)
    assert items.titles.tolist() == ["Untitled a", "Soap", "Soap", "title d"]
    assert funnel.notes == {
        "untitled_items": 1,
        "unused_items": 0,
        "repeated_titles": 2,
        "items_without_image": 3,
    }
    items, interactions, funnel = build_interactions(
        raw_data(rows, titles=titles), Filters(untitled="drop"), seed=0
    )
    assert sequences(items, interactions) == {"u": "bcd"}
    assert items.ids.tolist() == ["b", "c", "d"]
    assert funnel.dropped["untitled"] == {"users": 0, "items": 1, "interactions": 1}


def test_an_empty_dataset_names_the_filter_that_emptied_it():
    rows = [("u", "a"), ("u", "b"), ("v", "a"), ("v", "b")]
    with pytest.raises(
        UserError, match=r"filter k_core .* left nothing.*loaded: 2 users / 2 items / 4 inter.*k_core: 0"
    ):
        build_interactions(raw_data(rows), Filters(k_core=3), seed=0)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"k_core": -1}, "got -1 and 2"),
        ({"min_length": 5, "max_length": 4}, "max_length=4 is below min_length=5"),
        ({"repeats": "last"}, "repeats='last' is not known; give first or all"),
    ],
)
def test_settings_out_of_range_are_refused(setting, message):
    with pytest.raises(UserError, match=message):
        Filters(**setting)


def test_a_subset_of_no_users_is_refused():
    with pytest.raises(UserError, match="max_users=0 leaves no user"):
        build_interactions(raw_data([("u", "a"), ("u", "b")]), max_users=0, seed=0)


def test_max_users_does_not_depend_on_file_order_and_leaves_the_whole_counts():
    names = [f"u{n}" for n in range(50)]
    chosen = {}
    for order in (names, names[::-1]):
        rows = [(name, item) for name in order for item in "abc"]
        items, interactions, funnel = build_interactions(
            raw_data(rows), Filters(unused_items="drop"), max_users=7, seed=3
        )
        chosen[order[0]] = set(interactions.user_ids.tolist())
        assert funnel.whole == {"users": 50, "items": 3, "interactions": 150}
        assert funnel.steps[-1]["users"] == 7
        assert len(items) == 3
    assert chosen["u0"] == chosen["u49"]
    other = build_interactions(raw_data([(name, i) for name in names for i in "abc"]), max_users=7, seed=4)[1]
    assert set(other.user_ids.tolist()) != chosen["u0"]


@pytest.mark.parametrize("unused_items", ["keep", "drop"])
def test_items_that_only_dropped_users_interacted_with_are_not_offered(unused_items):
    # p has a and b, q has b and c, nobody has z. A run on one of the two users offers that user's items, and also z if
    # unused items are kept. Codes are those of the whole dataset.
    rows = [("p", "a"), ("p", "b"), ("q", "b"), ("q", "c")]
    raw = raw_data(rows, unused=["z"])
    items, _, funnel = build_interactions(raw, Filters(unused_items=unused_items), seed=0)
    assert items.offered.all()
    assert "items_of_dropped_users" not in funnel.notes
    offered = set()
    for seed in range(9):
        items, interactions, funnel = build_interactions(
            raw, Filters(unused_items=unused_items), max_users=1, seed=seed
        )
        assert items.ids.tolist() == (list("abc") if unused_items == "drop" else list("abcz"))
        user = str(interactions.user_ids[0])
        offered.add((user, "".join(items.ids[items.offered])))
        assert funnel.notes["items_of_dropped_users"] == 1
        assert funnel.notes["unused_items"] == len(items) - 3
    more = "" if unused_items == "drop" else "z"
    assert offered == {("p", "ab" + more), ("q", "bc" + more)}


def given_data(split) -> RawData:
    # Codes 0 and 1 are the same person p, once in the train file and once in the test file.
    items = Items(np.array(list("abc")), np.array(list("ABC")), np.array([""] * 3))
    users = np.array([0, 0, 1, 1, 1, 2, 2], dtype=np.int32)
    codes = np.array([0, 1, 0, 1, 2, 1, 2], dtype=np.int32)
    return RawData(
        "toy", items, RawInteractions(np.array(["p", "p", "q"]), users, codes, split=np.array(split, np.int8))
    )


def test_a_given_split_keeps_two_sequences_of_one_person_apart():
    _, interactions, funnel = build_interactions(given_data([TRAIN] * 2 + [TEST] * 3 + [TRAIN] * 2), seed=0)
    assert interactions.given_split.tolist() == [TRAIN, TEST, TRAIN]
    assert funnel.whole == {"users": 2, "items": 3, "interactions": 7}
    chosen = [
        build_interactions(given_data([TRAIN] * 2 + [TEST] * 3 + [TRAIN] * 2), max_users=1, seed=s)[1]
        for s in range(9)
    ]
    assert {tuple(subset.user_ids) for subset in chosen} == {("p", "p"), ("q",)}


def test_named_targets_go_with_their_rows_and_their_loss_is_said(caplog):
    # u's test target already occurs in u's history; v is short.
    data = raw_data([("u", "a"), ("u", "b"), ("u", "c"), ("u", "a"), ("v", "b"), ("v", "c")])
    labels = np.array([NO_TARGET, TRAIN, VALIDATION, TEST, NO_TARGET, TEST], dtype=np.int8)
    data.interactions = replace(data.interactions, targets=labels)
    _, interactions, _ = build_interactions(data, Filters(repeats="all", min_length=1), seed=0)
    assert interactions.given_targets.tolist() == labels.tolist()
    assert interactions.given_split.tolist() == [TRAIN, TEST]
    assert caplog.messages == []
    _, interactions, funnel = build_interactions(data, Filters(min_length=3), seed=0)
    assert interactions.given_targets.tolist() == [NO_TARGET, TRAIN, VALIDATION]
    assert funnel.notes["published_targets_filtered_out"] == 2
    assert "filters remove 2 of 3 published validation and test targets" in caplog.text


def test_a_sequence_with_two_splits_is_refused():
    with pytest.raises(UserError, match="user p"):
        build_interactions(given_data([TRAIN, TEST] + [TEST] * 3 + [TRAIN] * 2), seed=0)


def test_amazon_beauty_has_its_published_counts():
    path = SHARED / "amazon_beauty" / "raw" / "sequential_data.txt"
    if not path.exists():
        pytest.skip("Amazon Beauty is not at ../shared/data/amazon_beauty")
    rows = [line.split() for line in path.read_text().splitlines()]
    ids, codes = np.unique([item for row in rows for item in row[1:]], return_inverse=True)
    users = np.repeat(np.arange(len(rows)), [len(row) - 1 for row in rows])
    raw = RawData(
        "amazon_beauty",
        Items(ids, ids, np.full(len(ids), "")),
        RawInteractions(np.array([row[0] for row in rows]), users.astype(np.int32), codes.astype(np.int32)),
    )
    for k_core in (0, 5):
        items, interactions, funnel = build_interactions(raw, Filters(k_core=k_core, min_length=1), seed=0)
        assert funnel.whole == {"users": 22_363, "items": 12_101, "interactions": 198_502}
    assert items.ids[interactions.of_user(0)].tolist() == rows[0][1:]


def test_two_hundred_thousand_users_take_seconds():
    # Two million rows: a fifth of what a million users may take (15 s, 1.5 GB). One Python list per user takes more.
    generator = np.random.default_rng(0)
    num_users, num_items = 200_000, 20_000
    num_rows = 10 * num_users
    ids = np.arange(num_items).astype(str)
    raw = RawData(
        "large",
        Items(ids, ids, np.full(num_items, "")),
        RawInteractions(
            np.arange(num_users).astype(str),
            generator.integers(0, num_users, num_rows).astype(np.int32),
            generator.integers(0, num_items, num_rows).astype(np.int32),
            generator.integers(0, 10**9, num_rows),
        ),
    )
    tracemalloc.start()
    start = time.perf_counter()
    _, interactions, _ = build_interactions(raw, Filters(k_core=5, min_length=3), seed=0)
    seconds, peak = time.perf_counter() - start, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert seconds < 15
    assert peak < 300e6
    within = np.delete(np.diff(interactions.timestamps), interactions.offsets[1:-1] - 1)
    assert (within >= 0).all()
