from __future__ import annotations

import numpy as np
import pytest

from mllmrec.evaluation.metrics import per_user_metrics
from mllmrec.evaluation.slices import (
    Slice,
    history_slices,
    image_slices,
    names_by_user,
    popularity_groups,
    popularity_slices,
    sliced,
)


def members(slices: list[Slice]) -> dict[str, list[int]]:
    return {one.name: np.flatnonzero(one.members).tolist() for one in slices}


@pytest.mark.parametrize(
    ("counts", "groups"),
    [
        # Twenty interactions. The middles of the levels 1, 2, 4 and 8 are 1/20, 3/20, 8/20 and 16/20.
        ([0, 1, 1, 2, 4, 4, 8], ["cold", "tail", "tail", "tail", "middle", "middle", "head"]),
        # The middles of the levels 1, 2 and 4, of four, eight and eight interactions, are 2/20, 8/20 and 16/20.
        (
            [4, 2, 1, 2, 1, 4, 1, 2, 1, 2],
            ["head", "middle", "tail", "middle", "tail", "head", "tail", "middle", "tail", "middle"],
        ),
        # One item has more than half of all interactions.
        ([12, 1, 1, 2, 4], ["head", "tail", "tail", "tail", "middle"]),
        ([3, 3, 3], ["middle"] * 3),
        ([0, 0], ["cold"] * 2),
    ],
)
def test_head_and_tail_have_a_fifth_of_the_training_interactions_each(counts, groups):
    assert popularity_groups(np.array(counts)).tolist() == groups


def test_users_are_divided_by_their_targets_count():
    counts = np.array([0, 1, 1, 2, 4, 4, 8])
    slices = popularity_slices(counts, np.array([6, 0, 4, 1, 6]))
    assert members(slices) == {"cold": [1], "tail": [3], "middle": [2], "head": [0, 4]}
    assert [one.holds for one in slices] == [
        "targets in no training sequence",
        "targets with a training count of 1 to 2",
        "targets with a training count of 4",
        "targets with a training count of 8",
    ]
    assert [one.name for one in popularity_slices(counts, np.array([6, 1]))] == ["tail", "head"]


def test_histories_are_short_up_to_the_median():
    assert members(history_slices(np.array([4, 1, 2, 3, 2]))) == {"short": [1, 2, 4], "long": [0, 3]}
    # The median is the most that a prompt shows, so the shorter ones are short.
    slices = history_slices(np.array([9, 5, 9, 7, 9]))
    assert members(slices) == {"short": [1, 3], "long": [0, 2, 4]}
    assert [one.holds for one in slices] == [
        "histories that show 5 to 7 items",
        "histories that show 9 items",
    ]
    assert history_slices(np.array([9, 9])) == []


def test_images_divide_only_where_some_targets_have_none():
    assert members(image_slices(np.array([True, False, True]))) == {"image": [0, 2], "no image": [1]}
    assert image_slices(np.array([True, True])) == image_slices(np.array([False])) == []


def test_each_slice_has_the_metrics_of_its_users():
    slices = [
        Slice("cold", "targets in no training sequence", np.array([True, False, True, False])),
        Slice("head", "targets with a training count of 8", np.array([False, True, False, False])),
    ]
    assert names_by_user(slices, 4) == [["cold"], ["head"], ["cold"], []]
    everyone = Slice("short", "histories that show 2 items", np.ones(4, dtype=bool))
    assert names_by_user([*slices, everyone], 4) == [
        ["cold", "short"],
        ["head", "short"],
        ["cold", "short"],
        ["short"],
    ]
    per_user = per_user_metrics(np.array([1, 2, 3, 1]), [1, 3])
    found = sliced(per_user, slices, seed=0, resamples=50)
    assert list(found) == ["cold", "head"]
    assert (found["cold"]["users"], found["cold"]["few"]) == (2, True)
    # Ranks 1 and 3: NDCG is 1 and 1 / log2(4).
    assert found["cold"]["metrics"] == pytest.approx({"HR@1": 0.5, "HR@3": 1, "NDCG@3": 0.75, "MRR": 2 / 3})
    # Two users: a resample holds one of them twice, the other twice, or both.
    assert found["cold"]["intervals"]["NDCG@3"] == [0.5, 1.0]
    assert found["head"]["metrics"]["MRR"] == 0.5
    assert found["head"]["intervals"] == {}  # a single user has none
    assert found["head"]["holds"] == "targets with a training count of 8"


@pytest.mark.parametrize(("users", "few"), [(19, True), (20, False)])
def test_a_slice_of_fewer_than_twenty_users_is_flagged(users, few):
    everyone = Slice("long", "", np.ones(users, dtype=bool))
    found = sliced(per_user_metrics(np.ones(users), [1]), [everyone], seed=0, resamples=10)
    assert found["long"]["few"] is few
