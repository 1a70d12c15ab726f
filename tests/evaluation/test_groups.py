"""Lists of which each candidate stands in two, and a policy whose choices are known."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from mllmrec.engine.shared_prefix import SharedPrefix
from mllmrec.evaluation import groups
from mllmrec.evaluation.groups import Groups, join_lists
from mllmrec.evaluation.ranking import candidate_scores
from mllmrec.prompts.examples import Example, ListedPrompt
from mllmrec.prompts.lists import draw_lists

ENGINE = SharedPrefix()
WEIGHTS = {0: 8.0, 1: 4.0, 2: 2.0, 3: 1.0}  # how much the policy likes each item


def chosen_among(items):
    """Log-probabilities of a policy that chooses among the listed items, in proportion to their weights."""
    total = sum(WEIGHTS[item] for item in items)
    return [math.log(WEIGHTS[item] / total) for item in items]


def test_lists_of_a_policy_that_chooses_among_them_are_joined_exactly():
    # In the first two lists 8 beats 4, and 2 beats 1, by the same odds: only the other two tell 4 from 2.
    lists = [[0, 1], [2, 3], [0, 2], [3, 1]]
    scores = [chosen_among(items) for items in lists]
    assert scores[0] == pytest.approx(scores[1])
    joined = join_lists(np.array(lists), np.array(scores), np.array([3, 2, 1, 0]))
    # Each twice as likely as the one before.
    assert_allclose(np.diff(joined), np.log(2))


def test_a_list_among_strong_rivals_costs_nothing():
    # Item 1 stands twice beside 0, item 2 twice beside 3. The mean log-probability would put 2 (2/3) above 1 (1/3).
    lists = [[0, 1], [2, 3], [1, 0], [3, 2], [0, 3]]
    scores = [chosen_among(items) for items in lists]
    joined = join_lists(np.array(lists), np.array(scores), np.arange(4))
    assert_allclose(joined - joined[3], np.log([8, 4, 2, 1]), atol=1e-9)


def test_scores_that_no_list_changes_stay_as_they_are():
    known = np.array([-1.5, -2.0, -7.25, -3.0, -2.5, -9.0])
    lists = draw_lists(np.arange(6), 3, np.empty(0), np.random.default_rng(0))
    joined = join_lists(np.stack(lists), known[np.stack(lists)], np.arange(6))
    assert_allclose(joined, known, atol=1e-9)


def test_lists_without_a_common_item_are_compared_as_they_are():
    lists, scores = np.array([[0, 1], [2, 3]]), np.array([[-1.0, -4.0], [-2.0, -3.0]])
    assert join_lists(lists, scores, np.arange(4)).tolist() == [-1.0, -4.0, -2.0, -3.0]


def test_items_that_fill_up_a_list_are_not_ranked():
    joined = join_lists(np.array([[9, 5, 8]]), np.array([[-1.0, -2.0, -3.0]]), np.array([5, 8]))
    assert joined.tolist() == [-2.0, -3.0]


def test_equal_scores_stay_exactly_equal():
    lists = draw_lists(np.arange(23), 5, np.empty(0), np.random.default_rng(3))
    joined = join_lists(np.stack(lists), np.full((len(lists), 5), -math.log(7)), np.arange(23))
    assert len(set(joined.tolist())) == 1


def grouped(example: Example, candidates: np.ndarray, length: int, seed: int = 0, builder=None) -> Example:
    """The example with these candidates, in lists of ``length``."""
    lists = draw_lists(candidates, length, np.empty(0), np.random.default_rng(seed))
    shown = tuple(
        ListedPrompt("" if builder is None else builder.prompt([0, 1], items.tolist()), items)
        for items in lists
    )
    return dataclasses.replace(example, candidates=candidates, lists=shown, prompt=shown[0].prompt)


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_a_policy_that_chooses_among_what_is_listed_is_ranked_as_by_one_list(
    monkeypatch, tiny, make_examples, batch_size
):
    liking = np.random.default_rng(0).normal(size=(2, 30))  # users x items
    asked = []

    def known_scores(policy, answers, examples, *, constrained, engine):
        asked.append(len(examples))
        rows = [liking[int(example.user_id[1:]), example.candidates] for example in examples]
        return np.stack([row - np.log(np.exp(row).sum()) for row in rows])

    monkeypatch.setattr(groups, "candidate_scores", known_scores)
    examples = make_examples(tiny.builder)
    users = [
        grouped(examples[user], np.random.default_rng(user).permutation(30), 10, user) for user in (0, 1)
    ]
    ranked = Groups(tiny.policy, tiny.answers, ENGINE, 0, batch_size=batch_size).rank(users)
    for user, (example, result) in enumerate(zip(users, ranked, strict=True)):
        assert example.candidates[result.order].tolist() == np.argsort(-liking[user]).tolist()
    # Two users, each with two deals of three lists; never more prompts at once than allowed.
    assert sum(asked) == 12
    assert max(asked) == min(batch_size, 12)


@pytest.mark.parametrize("constrained", [False, True])
def test_every_list_is_a_prompt_of_its_own(tiny, make_examples, constrained):
    examples = make_examples(tiny.builder)
    users = [grouped(examples[user], np.arange(12), 4, user, tiny.builder) for user in (0, 1)]
    ranker = Groups(tiny.policy, tiny.answers, ENGINE, 0, constrained=constrained, batch_size=5)
    with torch.no_grad():
        together = ranker.scores(users)
        for user, joined in zip(users, together, strict=True):
            alone = [
                candidate_scores(
                    tiny.policy,
                    tiny.answers,
                    [dataclasses.replace(user, prompt=listed.prompt, candidates=listed.items)],
                    constrained=constrained,
                    engine=ENGINE,
                )[0]
                for listed in user.lists
            ]
            items = np.stack([listed.items for listed in user.lists])
            assert_allclose(joined, join_lists(items, np.stack(alone), user.candidates), atol=1e-4)
    assert np.abs(together[0] - together[1]).max() > 1e-3


def test_the_place_of_the_target_is_not_looked_at(tiny, make_examples):
    examples = make_examples(tiny.builder)
    users = [grouped(examples[user], np.arange(12), 4, user, tiny.builder) for user in range(3)]
    moved = [dataclasses.replace(user, target=0, target_column=0) for user in users]
    ranker = Groups(tiny.policy, tiny.answers, ENGINE, 0)
    with torch.no_grad():
        for a, b in zip(ranker.rank(users), ranker.rank(moved), strict=True):
            assert a.order.tolist() == b.order.tolist()
