from __future__ import annotations

import pytest
import torch

from mllmrec.engine.batches import pad
from mllmrec.engine.plain import Plain
from mllmrec.engine.shared_prefix import SharedPrefix
from mllmrec.prompts.trie import AnswerTrie, choice_sets
from mllmrec.rollout.answer_scores import score_answers
from mllmrec.rollout.base import Spelling
from mllmrec.rollout.constrained import Constrained

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


def roll_out(model, group, seed=0, answers=ANSWERS, temperature=1.0, engine=None):
    engine = engine or SharedPrefix()
    generators = [torch.Generator().manual_seed(100 * seed + row) for row in range(len(PROMPTS.ids))]
    with torch.no_grad():
        encoded = engine.encode(model, PROMPTS)
        return Constrained(temperature).draw(
            engine, model, encoded, group, generators, Spelling(END, answers)
        )


def texts(rollouts):
    return [ids[mask].tolist() for ids, mask in zip(*rollouts.tokens, strict=True)]


def test_only_the_answers_of_a_prompt_s_own_candidates_are_drawn(model):
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
        choices, decisions = choice_sets([AnswerTrie(answers)] * len(answers), answers)
        with torch.no_grad():
            logprobs = (
                Plain()
                .score(
                    model,
                    PROMPTS,
                    pad(answers, 0, side="right"),
                    torch.full((len(answers),), prompt),
                    scored=decisions,
                    choices=choices,
                    temperature=temperature,
                )
                .logprobs
            )
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
        assert (rollouts.choices.set_of[row, length:] == -1).all()


def test_the_entropy_of_a_choice_is_known_for_the_log(model):
    rollouts = roll_out(model, 2)
    entropy = rollouts.scores.entropy
    assert (entropy[rollouts.decisions] > 0).all()
    # The last prompt's only choice is between two tokens: at most ln 2.
    assert (entropy[-2:][rollouts.decisions[-2:]] <= 0.6932).all()
    assert (entropy[~rollouts.decisions] == 0).all()


def test_a_single_answer_leaves_nothing_to_decide(model):
    rollouts = roll_out(model, 2, answers=[[[5, 6, END]], [[8, END]]])
    assert texts(rollouts) == [[5, 6, END]] * 2 + [[8, END]] * 2
    assert not rollouts.decisions.any()
    assert (rollouts.scores.logprobs == 0).all()


def test_temperature_zero_takes_the_most_likely_answer(model):
    engine = Plain()
    with torch.no_grad():
        scored = score_answers(engine, model, PROMPTS, ANSWERS, END, torch.device("cpu"))
    best = [
        answers[int(part.argmax())]
        for answers, part in zip(ANSWERS, scored.logprobs.split([4, 2]), strict=True)
    ]
    rollouts = roll_out(model, 2, temperature=0.0)
    assert texts(rollouts) == [best[0]] * 2 + [best[1]] * 2
    # The scores that the rollouts carry are the policy's own.
    highest = torch.stack([part.max() for part in scored.logprobs.split([4, 2])])
    torch.testing.assert_close(rollouts.scores.logprobs.sum(1), highest.repeat_interleave(2))


def test_both_engines_roll_out_alike_and_know_the_scores(model):
    shared, plain = roll_out(model, 50), roll_out(model, 50, engine=Plain())
    assert texts(shared) == texts(plain)
    torch.testing.assert_close(shared.scores.logprobs, plain.scores.logprobs, atol=1e-5, rtol=0)
    torch.testing.assert_close(shared.scores.entropy, plain.scores.entropy, atol=1e-5, rtol=0)
    with torch.no_grad():
        again = Plain().score(
            model,
            PROMPTS,
            shared.tokens,
            shared.prompt_of,
            scored=shared.decisions,
            choices=shared.choices,
        )
    torch.testing.assert_close(shared.scores.logprobs, again.logprobs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("tokens", [1, 9, 1 << 16])
def test_many_answers_are_scored_in_pieces(model, monkeypatch, tokens):
    # Six answers of four tokens: one by one, two by two, all at once.
    passes = []

    class Counting(SharedPrefix):
        def score(self, model, encoded, completions, *others, **settings):
            passes.append(len(completions.ids))
            return super().score(model, encoded, completions, *others, **settings)

    engine = Counting()
    with torch.no_grad():
        encoded = engine.encode(model, PROMPTS)
        whole = score_answers(SharedPrefix(), model, encoded, ANSWERS, END, torch.device("cpu"))
        monkeypatch.setattr("mllmrec.rollout.answer_scores._TOKENS", tokens)
        found = score_answers(engine, model, encoded, ANSWERS, END, torch.device("cpu"))
    assert passes == {1: [1] * 6, 9: [2] * 3, 1 << 16: [6]}[tokens]
    torch.testing.assert_close(found.scores.logprobs, whole.scores.logprobs)
    torch.testing.assert_close(found.scores.entropy, whole.scores.entropy)
    # With gradients one graph joins them.
    passes.clear()
    score_answers(engine, model, engine.encode(model, PROMPTS), ANSWERS, END, torch.device("cpu"))
    assert passes == [6]


def test_same_seed_same_rollouts_whatever_the_global_generator(model):
    before = torch.get_rng_state()
    first = texts(roll_out(model, 20, seed=5))
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    assert texts(roll_out(model, 20, seed=5)) == first
    torch.set_rng_state(before)
    assert texts(roll_out(model, 20, seed=6)) != first
