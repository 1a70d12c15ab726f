from __future__ import annotations

import numpy as np

from mllmrec.data.base import NO_TARGET, TEST, TRAIN, VALIDATION, RawInteractions
from mllmrec.data.published import PublishedSamples, join_interactions, stitch_samples


def sequences_of(rows: RawInteractions) -> list[tuple[str, list[int], list[int]]]:
    """(user, items, labels) of every sequence, in time order."""
    assert rows.targets is not None
    found = []
    for code, user in enumerate(rows.user_ids):
        places = np.flatnonzero(rows.users == code)
        if rows.timestamps is not None:
            places = places[np.argsort(rows.timestamps[places], kind="stable")]
        found.append((user, rows.items[places].tolist(), rows.targets[places].tolist()))
    return found


def stitch(*samples: tuple[str, list[int], int, int]) -> list[tuple[str, list[int], list[int]]]:
    """The sequences of (user, history, target, label)."""
    names = list(dict.fromkeys(user for user, *_ in samples))
    lengths = [len(history) for _, history, _, _ in samples]
    return sequences_of(
        stitch_samples(
            PublishedSamples(
                np.array(names, dtype=object),
                np.array([names.index(user) for user, *_ in samples], dtype=np.int32),
                np.cumsum([0, *lengths]).astype(np.int64),
                np.array([item for _, history, _, _ in samples for item in history], dtype=np.int32),
                np.array([target for _, _, target, _ in samples], dtype=np.int32),
                np.array([label for *_, label in samples], dtype=np.int8),
            )
        )
    )


def test_samples_that_go_on_from_each_other_are_one_sequence():
    assert stitch(
        ("u", [1], 2, TRAIN),
        ("v", [7, 7], 7, TRAIN),
        ("u", [1, 2], 3, TRAIN),
        ("u", [1, 2, 3], 4, VALIDATION),
        ("u", [1, 2, 3, 4], 5, TEST),
    ) == [
        ("u", [1, 2, 3, 4, 5], [NO_TARGET, TRAIN, TRAIN, VALIDATION, TEST]),
        ("v", [7, 7, 7], [NO_TARGET, NO_TARGET, TRAIN]),
    ]


def test_histories_cut_to_the_latest_items_are_found_again():
    # Histories hold two items; some publishers show ten.
    assert stitch(("u", [1, 2], 3, TRAIN), ("u", [2, 3], 4, TRAIN), ("u", [3, 4], 5, TEST)) == [
        ("u", [1, 2, 3, 4, 5], [NO_TARGET, NO_TARGET, TRAIN, TRAIN, TEST])
    ]


def test_what_lies_between_two_samples_is_no_target():
    # The train file has only the user's longest history, and the test file has a later one.
    assert stitch(("u", [1], 2, TRAIN), ("u", [1, 2, 3, 4], 5, TEST)) == [
        ("u", [1, 2, 3, 4, 5], [NO_TARGET, TRAIN, NO_TARGET, NO_TARGET, TEST])
    ]


def test_samples_with_other_histories_stand_apart():
    # The test history lacks the validation target, as some publishers want.
    assert stitch(("u", [1, 2], 3, TRAIN), ("u", [1, 2, 3], 4, VALIDATION), ("u", [1, 2, 3], 5, TEST)) == [
        ("u", [1, 2, 3, 4], [NO_TARGET, NO_TARGET, TRAIN, VALIDATION]),
        ("u", [1, 2, 3, 5], [NO_TARGET, NO_TARGET, NO_TARGET, TEST]),
    ]
    assert stitch(("u", [], 1, TRAIN), ("u", [], 2, TEST)) == [("u", [1], [TRAIN]), ("u", [2], [TEST])]


def test_rows_of_a_file_may_stand_in_any_order():
    assert stitch(("u", [1, 2, 3], 4, TRAIN), ("u", [1], 2, TRAIN), ("u", [1, 2], 3, TRAIN)) == [
        ("u", [1, 2, 3, 4], [NO_TARGET, TRAIN, TRAIN, TRAIN])
    ]


def join(times, *rows: tuple[str, int, int]) -> list[tuple[str, list[int], list[int]]]:
    names = list(dict.fromkeys(user for user, *_ in rows))
    interactions = RawInteractions(
        np.array(names, dtype=object),
        np.array([names.index(user) for user, *_ in rows], dtype=np.int32),
        np.array([item for _, item, _ in rows], dtype=np.int32),
        None if times is None else np.array(times),
    )
    return sequences_of(
        join_interactions(interactions, np.array([label for *_, label in rows], dtype=np.int8))
    )


def test_held_out_rows_follow_the_train_rows():
    rows = [
        ("u", 1, TRAIN),
        ("u", 2, TRAIN),
        ("v", 9, TRAIN),
        ("u", 3, VALIDATION),
        ("u", 4, TEST),
        ("w", 5, TEST),
    ]
    expected = [
        ("u", [1, 2, 3, 4], [TRAIN, TRAIN, VALIDATION, TEST]),
        ("v", [9], [TRAIN]),
        ("w", [5], [TEST]),
    ]
    assert join(None, *rows) == expected
    # At equal times the order of the files decides.
    assert join([5, 5, 5, 5, 5, 5], *rows) == expected


def test_no_training_history_holds_what_is_held_out():
    # A random split: item 2 is a test target, though trained items come after it.
    assert join([1, 3, 2], ("u", 1, TRAIN), ("u", 3, TRAIN), ("u", 2, TEST)) == [
        ("u", [1, 3], [TRAIN, TRAIN]),
        ("u", [1, 2, 3], [NO_TARGET, TEST, NO_TARGET]),
    ]
