"""Rankings after reasoning: mean probabilities, and whose reasoning stands before the answer."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mllmrec.engine.shared_prefix import SharedPrefix
from mllmrec.evaluation.reasoned import AfterReasoning
from mllmrec.randomness import torch_generator
from mllmrec.rollout.base import Spelling

ENGINE = SharedPrefix()


@pytest.fixture
def make_ranker(tiny):
    return lambda **settings: AfterReasoning(tiny.policy, tiny.answers, ENGINE, 0, max_tokens=5, **settings)


@pytest.mark.parametrize("samples", [1, 3])
def test_a_score_is_the_logarithm_of_the_mean_probability(tiny, make_ranker, batch, samples):
    ranker = make_ranker(samples=samples)
    with torch.no_grad():
        scores = ranker.scores(batch)
        (alone,) = ranker.scores(batch[1:])
        model = tiny.policy.model
        encoded = ENGINE.encode(model, tiny.policy.prompt_batch([batch[1].prompt]))
        options = [[tiny.answers.of(item) for item in batch[1].candidates.tolist()]]
        spelling = Spelling(tiny.policy.end_token, options, tiny.policy.reasoning_tokens())
        generators = [torch_generator(0, "reasoning", batch[1].sample_id)]
        drawn = ranker.rollout.draw(ENGINE, model, encoded, samples, generators, spelling)
    expected = drawn.weights.view(samples, -1).mean(0).log()
    assert scores[1] == pytest.approx(expected.numpy(), abs=1e-4)
    assert alone == pytest.approx(scores[1], abs=1e-4)
    assert np.exp(scores[0]).sum() == pytest.approx(1, abs=1e-5)


def test_a_ranking_keeps_what_stands_before_its_answers(make_ranker, batch):
    ranker = make_ranker(samples=2)
    with torch.no_grad():
        ranked = ranker.rank(batch)
        scores, said = ranker.explained(batch)
    assert [result.text for result in ranked] == ["\n\n".join(pieces) for pieces in said]
    for result, row in zip(ranked, scores, strict=True):
        assert result.scores == pytest.approx(row, abs=1e-6)
        assert row[result.order].tolist() == sorted(row.tolist(), reverse=True)


def swapped(ranker, users):
    """Whose reasoning stands before the answers of a batch; the reasoning of example i of user u is [u, i]."""
    said = [[user, place, piece] for place, user in enumerate(users) for piece in range(ranker.samples)]
    closed = [user % 2 == 0 for user, _, _ in said]
    examples = [SimpleNamespace(user_id=user) for user in users]
    found, ends = ranker._changed(said, closed, examples)
    assert ends == [user % 2 == 0 for user, _, _ in found]
    return [user for user, _, _ in found[:: ranker.samples]]


@pytest.mark.parametrize("samples", [1, 2])
def test_another_user_s_reasoning_is_never_one_s_own(make_ranker, samples):
    ranker = make_ranker(samples=samples, shown="swapped")
    assert swapped(ranker, [1, 2, 3]) == [2, 3, 1]
    # The same user in two lists, and alone in a batch: the last user of the batch before lends.
    assert swapped(ranker, [4, 4, 5]) == [5, 5, 4]
    assert swapped(ranker, [6]) == [5]
    assert swapped(ranker, [7, 7]) == [6, 6]


def test_without_reasoning_none_is_drawn_and_answers_stand_behind_empty_tags(make_ranker, batch):
    ranker = make_ranker(shown="none", samples=2)
    with torch.no_grad():
        scores, said = ranker.explained(batch)
    assert said == [("", "")] * len(batch)
    assert ranker.generated_tokens == 0
    assert np.exp(scores[0]).sum() == pytest.approx(1, abs=1e-5)


def test_shuffled_words_are_the_same_words(tiny, make_ranker, batch):
    (text,) = tiny.policy.encode_answers(["red red lamp blue chair"])
    example = replace(batch[0])
    (said,), closed = make_ranker(shown="shuffled")._changed([text], [True], [example])
    words = tiny.policy.tokenizer.decode(said).split()
    assert (sorted(words), closed) == (["blue", "chair", "lamp", "red", "red"], [False])
