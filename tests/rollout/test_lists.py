"""Ranked lists of the candidates, place by place."""

from __future__ import annotations

import itertools

import pytest
import torch

from mllmrec.engine.batches import pad
from mllmrec.engine.plain import Plain
from mllmrec.engine.shared_prefix import SharedPrefix
from mllmrec.rollout.base import Spelling
from mllmrec.rollout.lists import Listed

END = 2
PROMPTS = pad([[11, 12, 13, 14, 15], [21, 22]], 0, side="left")
SINGLE = [[[5], [6], [7]], [[40], [41], [42]]]
SEVERAL = [[[5, 6], [5, 7, 9], [8, 6]], [[40, 41, 42], [40, 41, 43], [44]]]
LEADS = [[30], [31, 32]]


@pytest.fixture
def model(make_pretrained):
    model = make_pretrained().model
    with torch.no_grad():
        model.lm_head.weight.mul_(0.3)
    return model


def drawn(model, answers, engine=None, group=3, temperature=1.0):
    engine = engine or SharedPrefix()
    generators = [torch.Generator().manual_seed(row) for row in range(2)]
    with torch.no_grad():
        encoded = engine.encode(model, PROMPTS)
        spelling = Spelling(END, answers, leads=LEADS)
        return Listed(temperature).draw(engine, model, encoded, group, generators, spelling)


def written(answers, first, second):
    return [*LEADS[0], *answers[first], *LEADS[1], *answers[second], END]


def lists_of(completions):
    return [ids[mask].tolist() for ids, mask in zip(*completions.tokens, strict=True)]


@pytest.mark.parametrize("answers", [SINGLE, SEVERAL])
def test_a_list_names_candidates_once_each_and_segments_are_places(model, answers):
    completions = drawn(model, answers, group=8)
    for row, said in enumerate(lists_of(completions)):
        own = answers[row // 8]
        first, second = (
            completions.tokens.ids[row, completions.segments[row] == place].tolist() for place in (0, 1)
        )
        assert first != second
        assert said == written(own, own.index(first), own.index(second))
        # After the first item two are left: one choice, wherever their tokens part.
        assert completions.decisions[row, completions.segments[row] == 1].sum() == 1
        assert not completions.decisions[row, completions.segments[row] < 0].any()
    assert completions.finished.all()


@pytest.mark.parametrize("answers", [SINGLE, SEVERAL])
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_the_probabilities_of_all_lists_sum_to_one_and_are_those_of_the_draws(model, answers, temperature):
    group = 3000
    completions = drawn(model, answers, group=group, temperature=temperature)
    said, exact = lists_of(completions), completions.scores.logprobs.sum(1).exp()
    for prompt in range(2):
        own = slice(prompt * group, (prompt + 1) * group)
        total = 0.0
        for pair in itertools.permutations(range(3), 2):
            wanted = written(answers[prompt], *pair)
            rows = [row for row, one in enumerate(said[own], own.start) if one == wanted]
            probability = float(exact[rows[0]])
            total += probability
            assert (
                abs(len(rows) / group - probability) < 3.5 * (probability * (1 - probability) / group) ** 0.5
            )
        assert total == pytest.approx(1, abs=1e-5)


def test_engines_agree_and_temperature_0_takes_the_best(model):
    fast, plain = drawn(model, SEVERAL), drawn(model, SEVERAL, Plain())
    assert lists_of(fast) == lists_of(plain)
    assert torch.allclose(fast.scores.logprobs, plain.scores.logprobs, atol=1e-4)
    greedy = lists_of(drawn(model, SINGLE, temperature=0.0))
    assert greedy[0] == greedy[1] == greedy[2]
    many = drawn(model, SINGLE, group=500)
    best = int(many.scores.logprobs[:500, 1].argmax())
    assert greedy[0][:2] == lists_of(many)[best][:2]
