"""Profiles are paid what the ranking after them is worth, and nothing else of the history reaches that ranking."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from mllmrec.engine.shared_prefix import SharedPrefix
from mllmrec.evaluation.ranking import scores_behind
from mllmrec.evaluation.reasoned import AfterReasoning
from mllmrec.models.completions import learnt_tokens
from mllmrec.prompts.examples import CotUse
from mllmrec.prompts.profiles import profile_text, written_profile
from mllmrec.rl.advantages import GroupRelative
from mllmrec.rl.batch import POLICY
from mllmrec.rollout.base import Turn
from mllmrec.rollout.profiled import ANSWERS, Profiled, second_prompts
from mllmrec.testing.rollouts import check_rollout

G, C = 3, 4


class Told:
    """The same reasoning for every sample."""

    def reasoning(self, key):
        return "likes red <lamps>"


@pytest.fixture
def asked(tiny, make_examples):
    """Two examples that ask for a profile."""
    examples = make_examples(tiny.builder, cot=CotUse(placement="profile", asks=True))
    return [examples[0], examples[3]]


@pytest.fixture
def make_profiled(tiny, make_step):
    def make(group_size=G, rollout=None, **settings):
        rollout = rollout or Profiled(max_reasoning_tokens=5)
        return make_step(group_size=group_size, rollout=rollout, micro_batch_size=1 << 20, **settings)

    return make


def test_the_first_prompt_has_no_candidates_and_the_second_no_history(tiny, make_examples):
    chosen = np.ones(6, dtype=bool)
    example = make_examples(tiny.builder, cot=CotUse(Told(), chosen, "profile"))[0]
    listed = tiny.builder.prompt([], example.candidates.tolist()).removeprefix("History  ")
    assert (
        example.prompt
        == tiny.builder.prompt(example.history[-3:].tolist(), None).removesuffix("Next") + "Think"
    )
    assert example.second.about("") == listed
    assert example.second.about("red lamps") == f"Hint red lamps {listed}"


def test_sft_learns_the_profile_and_apart_from_it_the_answer(tiny, make_examples):
    example = make_examples(tiny.builder, cot=CotUse(Told(), np.ones(6, dtype=bool), "profile"))[0]
    describing, answering = example.lessons()
    (profile, answer), begins = learnt_tokens(tiny.policy, tiny.answers, [describing, answering])
    assert tiny.policy.tokenizer.decode(profile) == "<think>\nlikes red lamps\n</think>"
    assert answer == tiny.answers.of(example.target)
    assert begins == [len(profile), 0]
    assert (describing.prompt, answering.prompt) == (example.prompt, example.second.about("likes red lamps"))


def test_a_profile_earns_the_expected_reward_of_the_answers_after_it(tiny, make_profiled, asked):
    step = make_profiled()
    batch = step.collect(asked, 0)
    own = batch.by(POLICY)
    assert (int(own.sum()), len(batch)) == (2 * G, 2 * G + 2 * G * C)
    texts = [text for text, written in zip(batch.texts, own, strict=True) if written]
    examples = [asked[place] for place in batch.example_of[own].tolist()]
    options = [tiny.answers.among(one.candidates.tolist()) for one in examples]
    prompts = [
        one.second.about(text.removeprefix("<think>\n").split("</think>")[0])
        for one, text in zip(examples, texts, strict=True)
    ]
    with torch.no_grad():
        probabilities = np.exp(scores_behind(tiny.policy, prompts, options, step.speaker.engine))
    right = np.array([one.candidates[column] == one.target for one in examples for column in range(C)])
    rewards = (probabilities * batch.rewards[~own].numpy()).reshape(2 * G, C).sum(1)
    assert batch.rewards[own].numpy() == pytest.approx(rewards, abs=1e-5)
    best = batch.rewards[~own].max()
    assert (batch.rewards[~own].numpy() == best.numpy()).tolist() == right.tolist()
    # A prompt's profiles are one group; the answers after each profile are another.
    assert batch.groups.sizes.tolist() == [G, G] + [C] * 2 * G


def test_the_gradient_of_answers_is_that_of_the_expected_reward(tiny, make_profiled, asked):
    step = make_profiled(aggregation="constant", advantage=GroupRelative(epsilon=0.0, scale="none"))
    batch = step.collect(asked, 0)
    answers = ~batch.by(POLICY)
    only = replace(batch, learnt=batch.learnt & answers[:, None])
    model = tiny.policy.model
    for share in step.loss_shares(only, {}):
        share.backward()
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    found = torch.cat([weight.grad.flatten() for weight in trained])
    scores = step.speaker.scores(model, only, answers.nonzero()[:, 0]).logprobs.sum(1).exp()
    expected = (scores * batch.rewards[answers]).sum()
    wanted = torch.cat(
        [part.flatten() for part in torch.autograd.grad(expected, trained, allow_unused=False)]
    )
    scale = float(batch.weights.sum()) * step.speaker.longest
    assert float((-found * scale - wanted).norm() / wanted.norm()) < 1e-4


def test_without_learning_answers_only_profiles_are_rows(make_profiled, asked):
    whole = make_profiled().collect(asked, 0)
    alone = make_profiled(rollout=Profiled(max_reasoning_tokens=5, learn_answers=False), begin=False).collect(
        asked, 0
    )
    assert (len(alone), alone.weights) == (2 * G, None)
    assert_close(alone.rewards, whole.rewards[whole.by(POLICY)])


def test_profiles_that_are_cut_off_are_closed_by_force(tiny, make_profiled, asked):
    batch = make_profiled(rollout=Profiled(max_reasoning_tokens=2, learn_cut_off=False)).collect(asked, 0)
    own = batch.by(POLICY)
    assert not batch.finished[own].any()
    assert all(text.endswith("\n</think>") for text, written in zip(batch.texts, own, strict=True) if written)
    assert not batch.learnt[own].any()
    assert {source for source, written in zip(batch.sources, own, strict=True) if not written} == {ANSWERS}


def test_a_ranking_sees_the_profile_and_not_the_history(tiny, asked):
    ranker = AfterReasoning(tiny.policy, tiny.answers, SharedPrefix(), 0, max_tokens=5, shown="none")
    own = AfterReasoning(tiny.policy, tiny.answers, SharedPrefix(), 0, max_tokens=5)
    other = replace(asked[0], prompt=asked[1].prompt)
    with torch.no_grad():
        assert ranker.scores([asked[0]])[0] == pytest.approx(ranker.scores([other])[0], abs=1e-6)
        assert own.scores([asked[0]])[0] != pytest.approx(own.scores([other])[0], abs=1e-3)
        assert np.exp(own.scores(asked)[0]).sum() == pytest.approx(1, abs=1e-5)


def test_a_plain_prompt_has_no_second_one(batch):
    with pytest.raises(ValueError, match="does not ask for a profile"):
        second_prompts(batch[:1], ["red"])


def test_contract():
    check_rollout(Profiled(max_reasoning_tokens=4))
    check_rollout(Profiled(max_reasoning_tokens=4, learn_answers=False))


def test_tags_are_no_part_of_a_profile():
    assert written_profile("<think>\nred lamps\n</think>") == "red lamps"
    assert written_profile(profile_text("red lamps")) == "red lamps"
    assert written_profile("red lamps </think> and more") == "red lamps"


def test_two_turns_of_a_step_are_the_same(make_profiled, asked):
    step = make_profiled()
    turn = Turn(3, G)
    first, again = (step.collector.collect(asked, turn) for _ in range(2))
    assert first.texts == again.texts
