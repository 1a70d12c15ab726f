from __future__ import annotations

from itertools import chain

import numpy as np
import pytest

from mllmrec.errors import UserError
from mllmrec.prompts.lists import draw_lists, listing_of, num_lists

NONE_SPARE = np.empty(0, dtype=np.int64)


def drawn(count: int, length: int, seed: int = 0, spare: np.ndarray = NONE_SPARE) -> list[list[int]]:
    lists = draw_lists(np.arange(count), length, spare, np.random.default_rng(seed))
    return [items.tolist() for items in lists]


@pytest.mark.parametrize(
    ("asked", "ranking", "candidates", "expected"),
    [
        # Training prompts list 10.
        ("auto", "likelihood", 10, "all"),
        ("groups", "likelihood", 10, "all"),  # one group of 10
        ("none", "likelihood", 10, "none"),
        ("auto", "likelihood", 100, "groups"),
        ("auto", "constrained", 11, "groups"),
        ("auto", "likelihood", 5, "groups"),
        ("auto", "likelihood", None, "none"),  # the whole catalogue
        ("groups", "likelihood", None, "groups"),
        ("all", "likelihood", 100, "all"),
        ("none", "likelihood", 100, "none"),
        # A generated answer is chosen from one list, and questions about one item list nothing.
        ("auto", "generate", 100, "all"),
        ("auto", "pointwise", 100, "all"),
    ],
)
def test_candidates_are_listed_as_in_training_unless_asked_otherwise(asked, ranking, candidates, expected):
    assert listing_of(asked, ranking, candidates, 10) == expected


def test_every_candidate_stands_in_two_lists_of_the_length_asked_for():
    lists = drawn(20, 5)
    assert len(lists) == num_lists(20, 5) == 8
    # Four lists are one deal: all twenty, each once.
    for deal in (lists[:4], lists[4:]):
        assert sorted(chain(*deal)) == list(range(20))
    assert lists[:4] != lists[4:]


def test_a_short_list_is_filled_up_with_candidates_of_other_lists():
    for seed in range(50):
        lists = drawn(7, 5, seed)
        assert len(lists) == num_lists(7, 5) == 4
        for deal in (lists[:2], lists[2:]):
            assert [len(set(items)) for items in deal] == [5, 5]
            assert set(chain(*deal)) == set(range(7))


def test_too_few_candidates_stand_in_one_list_among_spare_items():
    spare = np.array([50, 51, 52, 53])
    (items,) = drawn(3, 5, spare=spare)
    assert num_lists(3, 5) == 1
    assert len(set(items)) == 5
    assert {0, 1, 2} < set(items) < {0, 1, 2, 50, 51, 52, 53}
    with pytest.raises(
        UserError, match=r"3 candidates and 1 other items do not fill a list of 5.*eval\.listing=all"
    ):
        drawn(3, 5, spare=spare[:1])


def test_lists_are_those_of_their_seed():
    assert drawn(30, 10, seed=1) == drawn(30, 10, seed=1)
    assert drawn(30, 10, seed=1) != drawn(30, 10, seed=2)


@pytest.mark.parametrize(("count", "length"), [(8, 4), (7, 5), (3, 5)])
def test_no_column_is_listed_at_other_places_or_more_often_than_others(count, length):
    # Whatever column the target has. How often each stands at each place of each list, over 3,000 draws:
    draws = 3000
    stands = np.zeros((num_lists(count, length), length, count))
    for seed in range(draws):
        for number, items in enumerate(drawn(count, length, seed, spare=np.arange(50, 60))):
            for place, item in enumerate(items):
                if item < count:
                    stands[number, place, item] += 1
    # A list of L that is drawn from C shows each with probability 1/C at each place; spare items share with C < L.
    expected = draws / max(count, length)
    assert (np.abs(stands - expected) < 5 * np.sqrt(expected)).all()
