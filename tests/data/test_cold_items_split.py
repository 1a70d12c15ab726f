from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from mllmrec.data.base import TEST, TRAIN, VALIDATION, Interactions, Items
from mllmrec.data.candidates import CandidateSampler, Catalogue
from mllmrec.data.cold_items import ColdItemInteractions, ColdItems
from mllmrec.data.filters import FilteredInteractions
from mllmrec.data.splits import Samples, training_counts
from mllmrec.errors import UserError


def catalogue(num_items: int) -> Items:
    ids = np.array([f"i{n}" for n in range(num_items)])
    return Items(ids, np.char.add("title ", ids), np.full(num_items, ""))


def interactions_of(sequences: list[tuple[str, list[int]]]) -> Interactions:
    return Interactions(
        np.array([name for name, _ in sequences]),
        np.cumsum([0, *(len(items) for _, items in sequences)]).astype(np.int64),
        np.array([item for _, items in sequences for item in items], dtype=np.int32),
    )


def pairs(samples: Samples) -> list[tuple[str, list[int], int]]:
    return [(samples.user_id(i), samples.history(i).tolist(), samples.target(i)) for i in range(len(samples))]


class Chosen(ColdItems):
    """Of ten items, 8 is a validation target and 9 a test target."""

    def _roles(self, interactions, items):
        return np.array([TRAIN] * 8 + [VALIDATION, TEST], dtype=np.int8)


SEQUENCES = [
    ("u", [0, 1, 8, 2, 9, 3]),  # tested on 9; 8 is in no history, and 3 comes too late for training
    ("v", [4, 5, 8, 0]),  # validated on 8
    ("w", [9, 3, 4]),  # nothing before 9, so only trained on
    ("x", [0, 9, 1, 9, 8]),  # tested on the last 9, so not validated on 8
    ("y", [1, 2, 3]),
    ("z", [9]),
]


def test_targets_are_cold_and_nothing_else_is():
    splits = Chosen()(interactions_of(SEQUENCES), catalogue(10))
    assert pairs(splits["test"]) == [("u", [0, 1, 2], 9), ("x", [0, 1], 9)]
    assert pairs(splits["validation"]) == [("v", [4, 5], 8)]
    assert pairs(splits["train"]) == [
        ("u", [0, 1], 2),
        ("v", [4], 5),
        ("w", [3], 4),
        ("x", [0], 1),
        ("y", [1, 2], 3),
    ]
    assert [part.tolist() for part in splits["train"].parts()] == [
        [0, 1, 2],
        [4, 5],
        [3, 4],
        [0, 1],
        [1, 2, 3],
    ]
    assert training_counts(splits["train"], 10).tolist() == [2, 3, 2, 2, 2, 1, 0, 0, 0, 0]
    # w and z have a test item that nothing precedes.
    assert (splits["test"].left_out, splits["validation"].left_out) == (2, 0)


def test_a_fifth_of_the_users_who_could_be_either_are_validated():
    # Where histories are long, every user meets cold items of both kinds.
    sequences = [(f"u{n}", [0, 1, 9, 8, 2]) for n in range(1000)]
    splits = Chosen()(interactions_of(sequences), catalogue(10))
    validated = {user for user, _, _ in pairs(splits["validation"])}
    assert 160 < len(validated) < 240  # 200, with a standard deviation of 13
    assert len(splits["test"]) == 1000 - len(validated)
    assert {target for _, _, target in pairs(splits["validation"])} == {8}
    assert {tuple(history) for _, history, _ in pairs(splits["validation"])} == {(0, 1)}
    assert (splits["test"].left_out, splits["validation"].left_out) == (0, 0)
    again = Chosen()(interactions_of(sequences[::-1]), catalogue(10))
    assert {user for user, _, _ in pairs(again["validation"])} == validated
    other = Chosen(seed=1)(interactions_of(sequences), catalogue(10))
    assert {user for user, _, _ in pairs(other["validation"])} != validated


def test_sliding_windows_and_longer_histories():
    interactions = interactions_of(SEQUENCES)
    train = Chosen(windows="sliding")(interactions, catalogue(10))["train"]
    assert pairs(train)[:2] == [("u", [0], 1), ("u", [0, 1], 2)]
    splits = Chosen(min_history=3)(
        interactions_of([*SEQUENCES, ("t", [1, 2, 3, 8]), ("s", [1, 2, 3, 4])]), catalogue(10)
    )
    assert pairs(splits["test"]) == [("u", [0, 1, 2], 9)]
    assert pairs(splits["validation"]) == [("t", [1, 2, 3], 8)]
    assert (splits["test"].left_out, splits["validation"].left_out) == (3, 2)  # w, x and z; v and x


def test_negatives_are_cold_where_the_target_is_and_never_in_training():
    items = catalogue(10)
    splits = Chosen()(interactions_of(SEQUENCES), items)
    interactions = splits["train"].interactions
    assert isinstance(interactions, ColdItemInteractions)
    assert interactions.cold.tolist() == [8, 9]
    training = Catalogue(interactions, items, known=splits["train"])
    assert np.flatnonzero(training.offered).tolist() == list(range(8))
    evaluation = Catalogue(interactions, items)
    assert np.flatnonzero(evaluation.offered).tolist() == [8, 9]
    # What a user did at any time is never a negative in evaluation; training does not know what comes later.
    user = interactions.user_ids.tolist().index("u")
    assert evaluation.seen_ranks(user).tolist() == [0, 1, 2, 3, 8, 9]
    assert training.seen_ranks(user).tolist() == [0, 1, 2, 8]
    everything = Chosen(negatives="all")(interactions_of(SEQUENCES), items)["test"].interactions
    assert Catalogue(everything, items).offered.all()


def test_popular_cold_items_are_drawn_more_often():
    # Every test user has item 4. Of the other cold items, ninety people have 2 and ten have 3.
    class Three(ColdItems):
        def _roles(self, interactions, items):
            return np.array([TRAIN] * 2 + [VALIDATION] * 2 + [TEST], dtype=np.int8)

    sequences = [(f"a{n}", [0, 1, 2]) for n in range(90)] + [(f"b{n}", [0, 1, 3]) for n in range(10)]
    sequences += [(f"c{n}", [0, 1, 4]) for n in range(200)]
    items = catalogue(5)
    splits = Three()(interactions_of(sequences), items)
    everything = Catalogue(splits["test"].interactions, items)
    drawn = {}
    for weighting in ("uniform", "popularity"):
        source = CandidateSampler(1, weighting).bind(everything, splits["train"])
        frozen = source.freeze(splits["test"], "test")
        assert set(np.unique(frozen.items)) == {2, 3, 4}
        drawn[weighting] = (frozen.items == 2).any(axis=1).mean()
    assert 0.4 < drawn["uniform"] < 0.6  # 0.5, with a standard deviation of 0.035
    assert 0.83 < drawn["popularity"] < 0.97  # 90 of 100 people; 0.021


def test_what_filters_hid_and_times_stay_with_their_interactions():
    plain = interactions_of(SEQUENCES)
    filtered = FilteredInteractions(
        plain.user_ids,
        plain.offsets,
        plain.items,
        timestamps=np.arange(len(plain.items)),
        # u disliked 6 before 1, and 7 at the end.
        hidden_users=np.array([0, 0], np.int32),
        hidden_items=np.array([6, 7], np.int32),
        hidden_positions=np.array([1, 6]),
    )
    items = catalogue(10)
    splits = Chosen()(filtered, items)
    interactions = splits["train"].interactions
    assert interactions.timestamps.tolist()[:4] == [0, 1, 3, 4]
    assert Catalogue(interactions, items).seen_ranks(0).tolist() == [0, 1, 2, 3, 6, 7, 8, 9]
    assert Catalogue(interactions, items, known=splits["train"]).seen_ranks(0).tolist() == [0, 1, 2, 6, 8]


def test_a_person_with_a_sequence_in_two_files_is_split_once():
    interactions = dataclasses.replace(
        interactions_of([("u", [0, 1, 2]), ("v", [3, 4, 5]), ("u", [5, 6, 9, 7]), ("v", [0, 1, 9])]),
        given_split=np.array([TRAIN, TRAIN, TEST, TEST], dtype=np.int8),
    )
    items = catalogue(10)
    with pytest.raises(UserError, match="validation split is empty"):
        Chosen()(interactions, items)
    more = dataclasses.replace(
        interactions_of(
            [("u", [0, 1, 2]), ("v", [3, 4, 5]), ("u", [5, 6, 9, 7]), ("v", [0, 1, 9]), ("t", [1, 8])]
        ),
        given_split=np.array([TRAIN, TRAIN, TEST, TEST, TRAIN], dtype=np.int8),
    )
    splits = Chosen()(more, items)
    assert pairs(splits["test"]) == [("u", [5, 6], 9), ("v", [0, 1], 9)]
    assert pairs(splits["train"]) == [("u", [5], 6), ("v", [0], 1)]
    # The other sequence counts as known in evaluation.
    assert Catalogue(splits["test"].interactions, items).seen_ranks(0).tolist() == [0, 1, 2, 5, 6, 7, 9]


def sequences_of(num_users: int, num_items: int) -> list[tuple[str, list[int]]]:
    generator = np.random.default_rng(0)
    return [(f"u{n}", generator.choice(num_items, 8, replace=False).tolist()) for n in range(num_users)]


def test_a_share_of_the_items_is_cold_whatever_the_order_of_the_files():
    sequences, items = sequences_of(200, 40), catalogue(40)
    splits = ColdItems(share=0.25)(interactions_of(sequences), items)
    cold = splits["test"].interactions.cold
    assert len(cold) == 10
    test, validation = (set(splits[name].targets.tolist()) for name in ("test", "validation"))
    assert len(test) == len(validation) == 5  # two hundred users meet all of them
    assert test | validation == set(cold.tolist())
    assert set(splits["test"].users.tolist()).isdisjoint(splits["validation"].users.tolist())
    assert not np.isin(np.concatenate(splits["train"].parts()), cold).any()

    place = np.random.default_rng(1).permutation(40)  # the new code of every item
    moved = Items(np.empty_like(items.ids), np.empty_like(items.titles), items.details)
    moved.ids[place], moved.titles[place] = items.ids, items.titles
    others = [(name, place[codes].tolist()) for name, codes in reversed(sequences)]
    again = ColdItems(share=0.25)(interactions_of(others), moved)
    assert sorted(moved.ids[again["test"].interactions.cold]) == sorted(items.ids[cold])
    assert sorted(again["test"].sample_ids) == sorted(splits["test"].sample_ids)
    another = ColdItems(share=0.25, seed=1)(interactions_of(sequences), items)
    assert set(another["test"].interactions.cold.tolist()) != set(cold.tolist())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"share": 0.0}, "split.share=0.0 must lie between 0 and 1"),
        ({"share": 1.0}, "split.share=1.0 must lie between 0 and 1"),
        ({"negatives": "warm"}, "split.negatives='warm' is not known"),
        ({"windows": "first"}, "windows='first' is not known"),
    ],
)
def test_settings_out_of_range_are_refused(settings, words):
    with pytest.raises(UserError, match=words):
        ColdItems(**settings)


def test_too_few_cold_items_say_what_to_raise():
    interactions, items = interactions_of(sequences_of(50, 20)), catalogue(20)
    with pytest.raises(UserError, match=r"split.share=0.05 of 20 items makes 1 cold; .* raise the share"):
        ColdItems(share=0.05)(interactions, items)
    splits = ColdItems(share=0.2)(interactions, items)
    source = CandidateSampler(9).bind(Catalogue(splits["test"].interactions, items), splits["train"])
    with pytest.raises(
        UserError, match=r"of 4 cold items left as negatives.*more cold items \(split.share\)"
    ):
        source.check(splits["test"])
