from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from mllmrec.engine.shared_prefix import SharedPrefix
from mllmrec.evaluation.calibration import (
    Calibrated,
    calibrated,
    calibration,
    mean_over_orders,
    per_token,
    rotations,
    without_prior,
)
from mllmrec.evaluation.ranking import InLists, Likelihood, ScoringRanker
from mllmrec.prompts.answer_tokens import AnswerTokens


class Stub(ScoringRanker):
    """Scores as a formula says of a prompt and a place."""

    def __init__(self, formula, answers=None):
        super().__init__(None, answers, None)
        self.formula, self.seed = formula, 0

    def scores(self, examples):
        return [
            np.array(
                [self.formula(one, item, column) for column, item in enumerate(one.candidates.tolist())],
                dtype=np.float64,
            )
            for one in examples
        ]


@pytest.fixture
def four(make_builder, make_examples):
    """Four examples whose prompts list three neighbours of the target and the target."""
    examples = make_examples(make_builder("instruct"))
    return examples, [examples[index] for index in range(4)]


def test_what_a_candidate_has_without_history_is_subtracted(four):
    examples, batch = four
    # Item i has -i for everyone, and 10 more for those whose history says so.
    stub = Stub(lambda one, item, column: -item + 10 * (f"1. [ITEM_{item - 3}]" in one.prompt))
    scores = Calibrated(stub, examples, "history").scores(batch)
    # User 0 has 0, 1, 2 and is asked about 3, 4, 5, 6; and so on.
    for user, (one, row) in enumerate(zip(batch, scores, strict=True)):
        assert row.tolist() == [10.0 * (item - 3 == user) for item in one.candidates.tolist()]
    assert batch[0].prompt.count("[ITEM_0]") == 1
    assert "[ITEM_0]" not in examples.reworded(batch[0], history=False).prompt


def test_a_preference_for_places_cancels_over_all_orders(four):
    examples, batch = four
    stub = Stub(lambda one, item, column: item - 100.0 * column)
    assert np.argmax(stub.scores(batch)[1]) == 0
    for one, row in zip(batch, Calibrated(stub, examples, "permute", orders=4).scores(batch), strict=True):
        # Each candidate was in each of the places 0 to 3 once.
        assert_allclose(row, one.candidates - 150.0)


def test_more_orders_than_candidates_repeat_none(four):
    examples, batch = four
    short = replace(batch[0], candidates=batch[0].candidates[:3])
    stub = Stub(lambda one, item, column: item - 100.0 * column)
    for one, row in zip(
        [batch[1], short],
        Calibrated(stub, examples, "permute", orders=4).scores([batch[1], short]),
        strict=True,
    ):
        assert_allclose(row, one.candidates - 100.0 * (len(one.candidates) - 1) / 2)


def test_without_history_no_reasoning_about_it_is_shown(four):
    examples, batch = four
    hinted = replace(batch[0], hint="likes lamps", has_reasoning=True)
    assert "likes lamps" in examples.reworded(hinted).prompt
    assert "likes lamps" not in examples.reworded(hinted, history=False).prompt


def test_another_order_is_another_prompt_about_the_same_target(four):
    examples, batch = four
    one = batch[2]
    order = np.array([3, 2, 1, 0])
    other = examples.reworded(one, order=order)
    assert other.candidates.tolist() == one.candidates[::-1].tolist()
    assert other.candidates[other.target_column] == one.target == one.candidates[one.target_column]
    listed = [line for line in other.prompt.splitlines() if line.startswith("[ITEM_")]
    assert [line.split()[0] for line in listed] == [f"[ITEM_{item}]" for item in other.candidates]
    assert examples.reworded(one).prompt == one.prompt


def test_pure_functions():
    assert without_prior(np.array([-1.0, -3.0]), np.array([-0.5, -4.0])).tolist() == [-0.5, 1.0]
    assert per_token(np.array([-2.0, -6.0]), np.array([1, 4])).tolist() == [-2.0, -1.5]
    assert rotations(4, 2).tolist() == [[0, 1, 2, 3], [2, 3, 0, 1]]
    assert rotations(3, 3).tolist() == [[0, 1, 2], [1, 2, 0], [2, 0, 1]]
    assert rotations(2, 4).tolist() == [[0, 1], [1, 0]]
    orders = np.array([[0, 1, 2], [2, 0, 1]])
    assert mean_over_orders(np.array([[1.0, 2, 3], [10, 20, 30]]), orders).tolist() == [10.5, 16.0, 6.5]


@pytest.mark.parametrize("label", ["id", "none"])
def test_scores_per_token_divide_by_what_was_scored(
    tiny, make_pretrained, make_builder, make_examples, label
):
    policy, builder = make_pretrained(lora=None), make_builder("instruct", label=label)
    answers = AnswerTokens(builder, policy.encode_answers, policy.end_token)
    examples = make_examples(builder)
    plain = Likelihood(policy, answers, SharedPrefix(), 0)
    one = examples[0]
    with torch.no_grad():
        (scores,), (means,) = plain.scores([one]), Calibrated(plain, examples, tokens=True).scores([one])
    # The end of an answer is scored where a title could begin another one.
    lengths = [len(row) - (label == "id") for row in answers.among(one.candidates.tolist())]
    assert_allclose(means * lengths, scores)


def test_parts_of_a_longer_list_are_corrected_one_by_one(make_builder, make_examples):
    examples = make_examples(make_builder("instruct"), list_size=2)
    stub = Stub(lambda one, item, column: item - 100.0 * column)
    ranker = InLists(Calibrated(stub, examples, "permute", orders=2), examples)
    (ranked,) = ranker.rank([examples[0]])
    items = examples[0].candidates
    assert items[ranked.order].tolist() == sorted(items.tolist(), reverse=True)


def test_only_what_is_asked_for_is_done_and_described(four):
    examples, _ = four
    stub = Stub(lambda *_: 0.0)
    assert calibrated(stub, examples, {}) is stub
    assert calibrated(stub, examples, {"calibrate": "none", "normalise": "none", "orders": 4}) is stub
    asked = {"calibrate": "permute", "normalise": "tokens", "orders": 3}
    assert calibration(asked) == asked
    assert calibration({**asked, "calibrate": "history"}) == {"calibrate": "history", "normalise": "tokens"}
    # Runs of earlier versions say nothing about orders.
    assert calibration({"calibrate": "permute"}) == {"calibrate": "permute", "orders": 4}
    made = calibrated(stub, examples, asked)
    assert (made.calibrate, made.tokens, made.orders) == ("permute", True, 3)
