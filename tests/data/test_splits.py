from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from mllmrec.data.base import TEST, TRAIN, Interactions
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
    # x is too short for test, w and x for validation, v, w and x for training.
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
    # u trains up to item 3 (of 0..5), v up to 6 (of 5..8): held-out items 4, 5, 7, 8 are counted by nobody but v's 5.
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
    # Of u and v the training part is 0 1 2 and of x 5 6 (v has no training target).
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
    ("name", "kind"), [("leave_one_out", LeaveOneOut), ("given", Given), ("time", ByTime)]
)
def test_the_shipped_config_instantiates(name, kind):
    config = OmegaConf.create({"protocol_seed": 5, "split": OmegaConf.load(CONF / f"{name}.yaml")})
    assert isinstance(instantiate(config.split), kind)
