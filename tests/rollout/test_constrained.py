from __future__ import annotations

import pytest
import torch

from mllmrec.engine.batches import pad
from mllmrec.engine.plain import completion_scores
from mllmrec.prompts.trie import AnswerTrie, UnknownPrefix
from mllmrec.rollout.constrained import Constrained, allowed_tokens

END = 2
PROMPTS = pad([[11, 12, 13, 14, 15], [21, 22]], 0, side="left")
# Different candidates for each prompt; shared beginnings, different lengths.
ANSWERS = [
    [[5, 6, END], [5, 7, END], [5, 7, 9, END], [8, END]],
    [[40, 41, 42, END], [40, 41, 43, END]],
]


@pytest.fixture
def model(make_pretrained):
    model = make_pretrained(lora=None).model.eval()
    with torch.no_grad():
        model.lm_head.weight.mul_(0.2)  # so that no answer is too rare to be counted
    return model


def roll_out(model, group, seed=0, answers=ANSWERS, temperature=1.0):
    return Constrained(temperature)(model, PROMPTS, group, torch.Generator().manual_seed(seed), answers, END)


def texts(rollouts):
    return [ids[mask].tolist() for ids, mask in zip(*rollouts.completions, strict=True)]


def test_only_answers_of_the_own_prompt_are_said(model):
    rollouts = roll_out(model, 200)
    said = texts(rollouts)
    for row, completion in enumerate(said):
        assert completion in ANSWERS[row // 200]
    assert {tuple(completion) for completion in said} == {
        tuple(answer) for group in ANSWERS for answer in group
    }
    assert rollouts.finished.all()
    assert rollouts.prompt_of.tolist() == [0] * 200 + [1] * 200


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_frequencies_are_the_renormalised_probabilities(model, temperature):
    group = 4000
    said = texts(roll_out(model, group, temperature=temperature))
    for prompt, answers in enumerate(ANSWERS):
        allowed, decisions = allowed_tokens([AnswerTrie(answers)] * len(answers), answers)
        with torch.no_grad():
            logprobs = completion_scores(
                model,
                PROMPTS,
                pad(answers, 0, side="right"),
                torch.full((len(answers),), prompt),
                scored=decisions,
                allowed=allowed,
                temperature=temperature,
            ).logprobs
        exact = logprobs.double().sum(1).exp()
        assert abs(float(exact.sum()) - 1) < 1e-5
        drawn = said[prompt * group : (prompt + 1) * group]
        for answer, probability in zip(answers, exact.tolist(), strict=True):
            deviation = (probability * (1 - probability) / group) ** 0.5
            assert abs(drawn.count(answer) / group - probability) <= 3 * deviation


def test_decisions_are_the_real_choices(model):
    rollouts = roll_out(model, 50)
    expected = {
        (5, 6, END): [True, True, False],  # 5 or 8; 6 or 7
        (5, 7, END): [True, True, True],  # end or 9
        (5, 7, 9, END): [True, True, True, False],
        (8, END): [True, False],
        (40, 41, 42, END): [False, False, True, False],
        (40, 41, 43, END): [False, False, True, False],
    }
    for row, completion in enumerate(texts(rollouts)):
        length = len(completion)
        assert rollouts.decisions[row, :length].tolist() == expected[tuple(completion)]
        assert not rollouts.decisions[row, length:].any()
        assert (rollouts.allowed[row, length:] == -1).all()


def test_a_single_answer_needs_no_model():
    rollouts = Constrained()(None, PROMPTS, 2, torch.Generator(), [[[5, 6, END]], [[8, END]]], END)
    assert texts(rollouts) == [[5, 6, END]] * 2 + [[8, END]] * 2
    assert not rollouts.decisions.any()


def test_an_unknown_path_is_refused():
    with pytest.raises(UnknownPrefix):
        allowed_tokens([AnswerTrie(ANSWERS[0])], [[5, 8, END]])


def test_same_seed_same_rollouts_whatever_the_global_generator(model):
    before = torch.get_rng_state()
    first = texts(roll_out(model, 20, seed=5))
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    assert texts(roll_out(model, 20, seed=5)) == first
    torch.set_rng_state(before)
    assert texts(roll_out(model, 20, seed=6)) != first
