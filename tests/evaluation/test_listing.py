"""Lists in evaluation are no longer than in training: which candidates share one, and scores depend on nothing else."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from mllmrec.engine.shared_prefix import SharedPrefix
from mllmrec.evaluation.evaluate import evaluate
from mllmrec.evaluation.ranking import InLists, Likelihood
from mllmrec.prompts.examples import CotUse
from mllmrec.prompts.listing import Listing


@pytest.mark.parametrize(
    ("listing", "negatives", "words", "count"),
    [
        # Training prompts list 10: the target and 9 negatives.
        ("trained", 4, "all", 5),
        ("trained", 9, "all", 10),
        ("trained", 10, "10 at a time", 10),
        ("trained", "full", "none", 0),
        ("all", 9, "all", 10),
        ("all", 10, "all, though training prompts list 10", 11),
        ("none", 9, "none", 0),
        ("none", "full", "none", 0),
    ],
)
def test_the_protocol_says_what_prompts_list(listing, negatives, words, count):
    settings = OmegaConf.create({"listing": listing, "num_negatives": negatives, "ranking": "likelihood"})
    assert Listing.of(settings, 10).describe() == {"listed": words, "num_listed": count}


def test_a_run_from_before_there_was_a_choice_lists_no_more_than_its_training():
    assert Listing.of(OmegaConf.create({"num_negatives": 99, "ranking": "likelihood"}), 10).list_size == 10


def test_lists_take_every_candidate_once_and_the_reasoning_that_is_shown(make_examples):
    policy = SimpleNamespace(reasoning=lambda key: "warm light")
    examples = make_examples(cot=CotUse(policy, np.ones(6, dtype=bool)), list_size=3)
    # User 1 has 1, 2, 3; the target 4 is column 1 of 5 4 6 7. At three a list, four candidates need two lists.
    first, second = examples.in_lists(examples[1])
    assert first.prompt == examples.builder.prompt([1, 2, 3], [5, 4], "warm light")
    assert second.prompt == examples.builder.prompt([1, 2, 3], [6, 7], "warm light")
    assert (first.candidates.tolist(), second.candidates.tolist()) == ([5, 4], [6, 7])
    assert (first.target_column, second.target_column) == (1, -1)


class Scripted(Likelihood):
    """Scores the items of a prompt by its list."""

    def __init__(self, scores):
        self.by_list, self.seed = scores, 0

    def scores(self, examples):
        return [np.array(self.by_list[tuple(example.candidates.tolist())]) for example in examples]


def test_each_candidate_is_scored_under_the_prompt_that_lists_it(make_examples):
    examples = make_examples(list_size=2)
    scores = {(3, 4): [-1.0, -4.0], (5, 6): [-3.0, -2.0], (5, 4): [-3.0, -1.0], (6, 7): [-2.0, -0.5]}
    ranker = InLists(Scripted(scores), examples)
    # 3 4 5 6 and 5 4 6 7, in lists of two.
    other, ranked = ranker.rank([examples[0], examples[1]])
    assert examples[0].candidates[other.order].tolist() == [3, 6, 5, 4]
    assert examples[1].candidates[ranked.order].tolist() == [7, 4, 6, 5]
    # 3 stands first in its list, and 7 second.
    assert (other.place_of_first, ranked.place_of_first) == (0, 1)


@pytest.fixture
def in_lists(tiny, make_examples):
    examples = make_examples(tiny.builder, list_size=2)
    return examples, InLists(Likelihood(tiny.policy, tiny.answers, SharedPrefix(), 0), examples)


def test_neither_batches_nor_the_target_s_place_play_a_part(in_lists):
    examples, ranker = in_lists
    chosen = [examples[index] for index in range(6)]
    moved = [dataclasses.replace(example, target_column=3 - example.target_column) for example in chosen]
    with torch.no_grad():
        together = [result.order.tolist() for result in ranker.rank(chosen)]
        alone = [ranker.rank([example])[0].order.tolist() for example in moved]
    assert together == alone
    assert all(sorted(order) == [0, 1, 2, 3] for order in together)


def test_one_list_of_all_ranks_as_a_prompt_that_lists_them(in_lists, make_examples, tiny):
    _, ranker = in_lists
    whole, one = make_examples(tiny.builder), make_examples(tiny.builder, list_size=4)
    with torch.no_grad():
        expected = ranker.ranker.rank([whole[index] for index in range(6)])
        found = InLists(ranker.ranker, one).rank([one[index] for index in range(6)])
    assert [result.order.tolist() for result in found] == [result.order.tolist() for result in expected]


def test_a_policy_in_training_is_ranked_by_in_evaluation_mode(in_lists, tiny, monkeypatch):
    examples, ranker = in_lists
    tiny.policy.model.train()
    modes, scores = [], Likelihood.scores
    monkeypatch.setattr(
        Likelihood,
        "scores",
        lambda self, asked: modes.append(tiny.policy.model.training) or scores(self, asked),
    )
    result = evaluate(examples, ranker, [[0, 1, 2, 3], [4, 5]])
    assert set(modes) == {False}
    assert tiny.policy.model.training
    assert set(result.ranks) <= {1.0, 2.0, 3.0, 4.0}
    assert result.validity["short"] == 0
