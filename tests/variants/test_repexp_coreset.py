"""RepExp's way to rank: answers that are unlike those chosen before."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mllmrec.errors import UserError
from mllmrec.inference.drawn import Drawn
from mllmrec.rollout.base import Turn
from mllmrec.testing.inference import toy_inputs
from mllmrec.testing.toys import toy_examples
from mllmrec.variants.repexp_coreset import RepExpCoreset, coreset, mean_states, projected

ROWS = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [-2.0, -1.0]])


def test_the_coreset_of_the_check_case():
    # First the longest, 5 / 0.01. Then S = [[4.01, 2], [2, 1.01]] with determinant 0.0501: h' S^-1 h is 1.01 / 0.0501 for
    # (1, 0) and 4.01 / 0.0501 for (0, 1). What is left is equal, and the first of equal ones comes first.
    assert coreset(ROWS, 4, 0.01) == [3, 2, 0, 1]
    assert coreset(ROWS, 2, 0.01) == [3, 2]
    assert coreset(ROWS[:2], 9, 0.01) == [0, 1]


def test_each_choice_is_the_largest_under_an_s_that_is_computed_anew():
    rows = np.random.default_rng(0).normal(size=(9, 4))
    chosen = coreset(rows, 6, 0.3)
    for count, row in enumerate(chosen):
        before = rows[chosen[:count]]
        inverse = np.linalg.inv(0.3 * np.eye(4) + before.T @ before)
        gains = {other: rows[other] @ inverse @ rows[other] for other in set(range(9)) - set(chosen[:count])}
        assert max(gains, key=gains.get) == row


def test_a_repeated_answer_gives_way_to_another_one():
    # Five times candidate 0, then 1 and 2, which are opposite to each other and far from it.
    vectors = np.array([[0.0, 0.1]] * 5 + [[1.0, 0.0], [-1.0, 0.0]])
    drawn = Drawn([[0]] * 5 + [[1], [2]], np.zeros(7), ["said"] * 7, vectors)
    assert RepExpCoreset(n=7, k=2).order(drawn) == [1, 2]
    assert RepExpCoreset(n=7, k=3).order(drawn) == [1, 2, 0]


def test_answers_that_name_nothing_take_no_part():
    drawn = Drawn([[], [1]], np.zeros(2), ["", "said"], np.array([[9.0, 9.0], [1.0, 0.0]]))
    assert RepExpCoreset(n=2, k=2).order(drawn) == [1]
    assert RepExpCoreset(n=1, k=1).order(Drawn([[]], np.zeros(1), [""], np.zeros((1, 2)))) == []


def test_states_are_means_over_the_tokens_of_the_completion():
    inputs, examples = toy_inputs(), toy_examples(2)  # prompts of two and of four words
    speaker = inputs.speaker()
    batch = speaker.complete(examples, Turn(step=0, group_size=3))
    found = mean_states(batch, speaker)
    for row in range(len(batch)):
        place = int(batch.prompt_of[row])
        prompt = batch.prompts.ids[place][batch.prompts.mask[place]]
        said = batch.completions.ids[row][batch.completions.mask[row]]
        with torch.no_grad():
            states = speaker.policy.model(
                input_ids=torch.cat([prompt, said])[None], output_hidden_states=True
            ).hidden_states[-1][0, len(prompt) :]
        torch.testing.assert_close(found[row], states.mean(0), atol=1e-5, rtol=1e-4)


def test_long_states_are_projected_and_short_ones_are_not():
    rows = np.random.default_rng(0).normal(size=(5, 400))
    assert projected(rows, 400, 0) is rows
    small = projected(rows, 200, 0)
    assert small.shape == (5, 200)
    lengths = np.linalg.norm(small, axis=1) / np.linalg.norm(rows, axis=1)
    assert np.all((lengths > 0.7) & (lengths < 1.3))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"k": 5}, "from 1 to the n=4"),
        ({"k": 0}, "k=0"),
        ({"ridge": 0.0}, "ridge=0"),
        ({"dimensions": 0}, "dimensions=0"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        RepExpCoreset(**{"n": 4, "k": 2, **settings})


def test_texts_of_items_need_an_encoder():
    inputs = toy_inputs()
    with pytest.raises(UserError, match=r"no text_encoder: set inference\.vectors=states"):
        RepExpCoreset(n=2, k=1, vectors="items").ranker(inputs)
    assert "text_encoder" not in inputs.cfg
