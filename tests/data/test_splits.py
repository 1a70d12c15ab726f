from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from mllmrec.data.base import NO_TARGET, TEST, TRAIN, VALIDATION, Interactions
from mllmrec.data.cold_items import ColdItems
from mllmrec.data.splits import ByTime, Given, LeaveOneOut, Samples, training_counts
from mllmrec.errors import UserError

CONF = Path(__file__).resolve().parents[2] / "conf" / "split"


def interactions_of(sequences: dict[str, list[int]], timestamps=None, given_split=None) -> Interactions:
    lengths = [len(items) for items in sequences.values()]
    return Interactions(
        np.array(list(sequences)),
        np.cumsum([0, *lengths]).astype(np.int64),
        np.array([item for items in sequences.values() for item in items], dtype=np.int32),
        None if timestamps is None else np.array(timestamps),
        given_split,
    )


def pairs(samples: Samples) -> list[tuple[str, list[int], int]]:
    return [(samples.user_id(i), samples.history(i).tolist(), samples.target(i)) for i in range(len(samples))]


FOUR = {"u": [0, 1, 2, 3, 4], "v": [5, 6, 7], "w": [8, 9], "x": [1]}


def test_leave_one_out_last_window():
    splits = LeaveOneOut()(interactions_of(FOUR))
    assert pairs(splits["test"]) == [("u", [0, 1, 2, 3], 4), ("v", [5, 6], 7), ("w", [8], 9)]
    assert pairs(splits["validation"]) == [("u", [0, 1, 2], 3), ("v", [5], 6)]
    assert pairs(splits["train"]) == [("u", [0, 1], 2)]
    # x is too short for test, w and x are for validation, and v, w and x for training.
    assert [splits[name].left_out for name in ("test", "validation", "train")] == [1, 2, 3]


def test_leave_one_out_sliding_windows_and_min_history():
    sequence = {"u": [0, 1, 2, 3, 4, 5], "v": [5, 6, 7, 8]}
    splits = LeaveOneOut(windows="sliding")(interactions_of(sequence))
    assert pairs(splits["train"]) == [("u", [0], 1), ("u", [0, 1], 2), ("u", [0, 1, 2], 3), ("v", [5], 6)]
    splits = LeaveOneOut(windows="sliding", min_history=2)(interactions_of(sequence))
    assert pairs(splits["train"]) == [("u", [0, 1], 2), ("u", [0, 1, 2], 3)]
    assert len(splits["validation"]) == 2
    assert splits["train"].left_out == 1


def test_samples_give_limited_histories_and_stable_ids():
    train = LeaveOneOut(windows="sliding")(interactions_of({"a": [3, 4, 5, 6], "u": [0, 1, 2, 3, 4, 5]}))[
        "train"
    ]
    assert [train.sample_id(i) for i in range(len(train))] == ["a:1", "u:1", "u:2", "u:3"]
    assert train.history(3, 2).tolist() == [1, 2]
    assert train.history(1, 2).tolist() == [0]
    assert train.history(3, 0).tolist() == []
    assert train.history_lengths.tolist() == [1, 1, 2, 3]
    assert train.targets.tolist() == [4, 1, 2, 3]


def test_training_counts_stop_at_the_last_training_target():
    # u trains up to item 3 (of 0..5), v up to 6 (of 5..8). Of the held-out 4, 5, 7, 8 only 5 is counted, for v.
    for windows in ("last", "sliding"):
        train = LeaveOneOut(windows=windows)(interactions_of({"u": [0, 1, 2, 3, 4, 5], "v": [5, 6, 7, 8]}))[
            "train"
        ]
        assert training_counts(train, 9).tolist() == [1, 1, 1, 1, 0, 1, 1, 0, 0]


def test_given_split_takes_the_last_test_item_and_holds_out_train_users():
    sequences = {f"u{n}": [n, n + 1, n + 2] for n in range(10)} | {"t": [0, 5, 9]}
    split = np.array([TRAIN] * 10 + [TEST], dtype=np.int8)
    splits = Given(validation_share=0.2, windows="sliding")(interactions_of(sequences, given_split=split))
    assert pairs(splits["test"]) == [("t", [0, 5], 9)]
    assert len(splits["validation"]) == 2  # 0.2 x 10 users, their last item
    assert len(splits["train"]) == 16  # 8 users x 2 windows
    held_out = {splits["validation"].user_id(i) for i in range(2)}
    assert held_out.isdisjoint(splits["train"].user_id(i) for i in range(16))
    assert all(history == [target - 2, target - 1] for _, history, target in pairs(splits["validation"]))

    backwards = dict(reversed(sequences.items()))
    again = Given(validation_share=0.2)(interactions_of(backwards, given_split=split[::-1]))["validation"]
    assert {again.user_id(i) for i in range(2)} == held_out


def test_given_split_without_validation_and_without_a_split():
    sequences = {"a": [0, 1], "b": [1, 2]}
    split = np.array([TRAIN, TEST], dtype=np.int8)
    splits = Given(validation_share=0)(interactions_of(sequences, given_split=split))
    assert (len(splits["train"]), len(splits["validation"])) == (1, 0)
    with pytest.raises(UserError, match="no published split"):
        Given()(interactions_of(sequences))
    with pytest.raises(UserError, match="train split is empty"):  # the only train user is held out
        Given(validation_share=0.1)(interactions_of(sequences, given_split=split))


def named(sequences: list[tuple[str, list[int], list[int]]]) -> Interactions:
    """Interactions of (user, items, targets) in which the publisher names every target."""
    return Interactions(
        np.array([user for user, _, _ in sequences]),
        np.cumsum([0, *(len(items) for _, items, _ in sequences)]).astype(np.int64),
        np.array([item for _, items, _ in sequences for item in items], dtype=np.int32),
        given_split=np.array([min(label for label in labels if label >= 0) for *_, labels in sequences]),
        given_targets=np.array([label for *_, labels in sequences for label in labels], dtype=np.int8),
    )


def test_named_targets_are_the_targets():
    none, train, validation, test = NO_TARGET, TRAIN, VALIDATION, TEST
    interactions = named(
        [
            ("u", [1, 2, 3, 4, 5, 6], [none, train, train, validation, test, test]),
            ("v", [7, 8, 9], [train, train, none]),
            ("w", [3, 4], [test, test]),
        ]
    )
    splits = Given(windows="sliding")(interactions)
    assert pairs(splits["train"]) == [("u", [1], 2), ("u", [1, 2], 3), ("v", [7], 8)]
    assert pairs(splits["validation"]) == [("u", [1, 2, 3], 4)]
    assert pairs(splits["test"]) == [("u", [1, 2, 3, 4], 5), ("u", [1, 2, 3, 4, 5], 6), ("w", [3], 4)]
    assert [splits[name].left_out for name in ("train", "validation", "test")] == [
        1,
        0,
        1,
    ]  # no history: v's 7, w's 3
    assert pairs(Given()(interactions)["train"]) == [("u", [1, 2], 3), ("v", [7], 8)]
    # Training may count 1 to 3 for u, 7 and 8 for v, and nothing for w.
    assert training_counts(splits["train"], 10).tolist() == [0, 1, 1, 1, 0, 0, 0, 1, 1, 0]


def test_published_targets_that_min_history_takes_are_counted(caplog):
    interactions = named(
        [
            ("u", [1, 2, 3, 4], [NO_TARGET, TEST, TRAIN, TEST]),
            ("v", [5, 6, 7, 8], [TEST, VALIDATION, VALIDATION, TEST]),
        ]
    )
    Given()(interactions)
    assert caplog.messages == []  # v's first target has no history, so it cannot be used at all
    Given(min_history=2)(interactions)
    # Targets with a history of one item: u's 2 and v's 6. There are six targets in all.
    assert "split.min_history=2 leaves out 2 of 6 published validation and test targets" in caplog.text


def test_train_users_are_held_out_where_no_validation_is_named():
    sequences = [(f"u{n}", [n, n + 1, n + 2], [TRAIN, TRAIN, TEST]) for n in range(10)]
    splits = Given(windows="sliding", validation_share=0.2)(named(sequences))
    assert len(splits["test"]) == 10
    held_out = {splits["validation"].user_id(i) for i in range(len(splits["validation"]))}
    assert len(held_out) == 2
    assert held_out.isdisjoint(splits["train"].user_id(i) for i in range(len(splits["train"])))
    # Their last training item, before the test target.
    assert all(history == [target - 1] for _, history, target in pairs(splits["validation"]))
    splits = Given(validation_share=0)(named(sequences))
    assert (len(splits["train"]), len(splits["validation"])) == (10, 0)


def test_samples_of_two_sequences_of_one_person_have_different_ids():
    none, train, validation, test = NO_TARGET, TRAIN, VALIDATION, TEST
    splits = Given()(
        named(
            [
                ("u", [1, 2, 3], [none, train, validation]),
                ("u", [4, 5, 6], [none, none, test]),
                ("u", [7, 8, 9], [none, none, test]),
                ("u~2", [7, 8, 9], [none, none, test]),
            ]
        )
    )
    # Two items precede each target; places of the second sequence continue after the three items of the first.
    assert [splits["test"].sample_id(i) for i in range(3)] == ["u:2", "u:5", "u~2:2"]
    assert splits["train"].sample_id(0) == "u:1"


def test_one_person_in_two_files_needs_the_given_split():
    twice = Interactions(
        np.array(["p", "p"]),
        np.array([0, 4, 8]),
        np.arange(8, dtype=np.int32),
        np.arange(8),
        np.array([TRAIN, TEST]),
    )
    for split in (LeaveOneOut(), ByTime()):
        with pytest.raises(UserError, match="user p has a sequence in the train file"):
            split(twice)


def test_time_split_by_hand():
    # Cuts at 10 and 20. u: 1 2 9 | 10 12 | 20 25; v: 3 | - | 21; w: - | 11 15 | 22; x: 4 5 | 19 | -
    sequences = {"u": [0, 1, 2, 3, 4, 5, 6], "v": [0, 1], "w": [2, 3, 4], "x": [5, 6, 7]}
    times = [1, 2, 9, 10, 12, 20, 25, 3, 21, 11, 15, 22, 4, 5, 19]
    splits = ByTime(windows="sliding", validation_from=10, test_from=20)(interactions_of(sequences, times))
    assert pairs(splits["train"]) == [("u", [0], 1), ("u", [0, 1], 2), ("x", [5], 6)]
    assert pairs(splits["validation"]) == [("u", [0, 1, 2], 3), ("x", [5, 6], 7)]  # w's first has no history
    assert pairs(splits["test"]) == [("u", [0, 1, 2, 3, 4], 5), ("v", [0], 1), ("w", [2, 3], 4)]
    last = ByTime(validation_from=10, test_from=20)(interactions_of(sequences, times))["train"]
    assert pairs(last) == [("u", [0, 1], 2), ("x", [5], 6)]
    # The training part is 0 1 2 for u and v, and 5 6 for x (v has no training target).
    assert training_counts(last, 8).tolist() == [1, 1, 1, 0, 0, 1, 1, 0]


def test_time_cuts_from_shares():
    # Ten timestamps: 30 % from index 7 on is validation or test, 10 % from index 9 on is test.
    assert ByTime(validation_share=0.2, test_share=0.1).cuts(np.arange(100, 110)[::-1]) == (107, 109)


def test_time_split_needs_timestamps_and_ordered_cuts():
    with pytest.raises(UserError, match="no timestamps"):
        ByTime()(interactions_of(FOUR))
    with pytest.raises(UserError, match="earlier than"):
        ByTime(validation_from=20, test_from=10)
    with pytest.raises(UserError, match="sum to below 1"):
        ByTime(validation_share=0.5, test_share=0.5)
    with pytest.raises(UserError, match="both"):
        ByTime(test_from=10)


def test_empty_splits_and_unknown_windows_are_refused():
    with pytest.raises(UserError, match="train split is empty: 1 users"):
        LeaveOneOut()(interactions_of({"v": [5, 6, 7]}))
    with pytest.raises(UserError, match="windows='all'"):
        LeaveOneOut(windows="all")
    with pytest.raises(UserError, match="min_history=0"):
        LeaveOneOut(min_history=0)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("leave_one_out", LeaveOneOut), ("given", Given), ("time", ByTime), ("cold_items", ColdItems)],
)
def test_the_shipped_config_instantiates(name, kind):
    config = OmegaConf.create({"protocol_seed": 5, "split": OmegaConf.load(CONF / f"{name}.yaml")})
    assert isinstance(instantiate(config.split), kind)
