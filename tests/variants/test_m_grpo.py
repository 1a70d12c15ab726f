"""M-GRPO: profiles and their readers are compared with their own kind."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from mllmrec.config import CONFIG_DIR, check_config
from mllmrec.config.compose import compose_checked
from mllmrec.prompts.markup import neutral
from mllmrec.rl.advantages import GroupRelative
from mllmrec.rollout.base import Turn
from mllmrec.rollout.constrained import Constrained
from mllmrec.rollout.free import Free
from mllmrec.testing import check_rollout, check_shaper, toy_batch, toy_speaker
from mllmrec.testing.toys import toy_examples
from mllmrec.testing.trials import trial_faults
from mllmrec.variants.m_grpo import PROFILE, QUESTION, ProfileReward, WithHelper

EXAMPLES = toy_examples(2)


class Listening:
    """Writes down what a speaker is asked."""

    def __init__(self, rollout):
        self.speaker, self.asked = toy_speaker(rollout), []

    def complete(self, examples, turn, *, prompts=None, round_=0, source="policy", **others):
        drawn = self.speaker.complete(examples, turn, prompts=prompts, round_=round_, source=source, **others)
        self.asked.append((turn.group_size, prompts, drawn.texts))
        return drawn


def test_each_answer_reads_profiles_of_its_own():
    rollout = WithHelper(Free(max_new_tokens=3), profiles=2)
    speaker = Listening(rollout)
    batch = rollout(EXAMPLES, speaker, lambda given: given, Turn(0, 3))
    assert batch.group_of.tolist() == [0] * 3 + [1] * 6 + [2] * 3 + [3] * 6
    assert batch.by(PROFILE).tolist() == ([False] * 3 + [True] * 6) * 2
    (size, prompts, said), *answers = speaker.asked
    assert (size, prompts) == (6, [f"{example.prompt}\n{QUESTION}" for example in EXAMPLES])
    assert len({*said}) > 6
    for number, (size, prompts, _) in enumerate(answers):
        assert size == 1
        for place, prompt in enumerate(prompts):
            read = said[6 * place + 2 * number : 6 * place + 2 * number + 2]
            lines = [f"A colleague says: {neutral(text)}" for text in read]
            assert [line.rstrip() for line in prompt.split("\n")[:2]] == [line.rstrip() for line in lines]
            assert prompt.endswith(EXAMPLES[place].prompt)
    # Rows keep the order of their draws: an answer's profiles are found by its place.
    assert list(batch.texts[:3]) == [texts[0] for _, _, texts in answers]
    assert list(batch.texts[3:9]) == said[:6]


def test_profiles_are_paid_for_their_readers_and_for_the_title():
    texts = ["[ITEM_1]", "[ITEM_2]", "likes a red lamp", "", "a lamp", "none"]
    batch = toy_batch(texts, rewards=[1.0, 0.1, -1.0, -1.0, -1.0, -1.0])
    batch = replace(
        batch,
        sources=("policy",) * 2 + (PROFILE,) * 4,
        parts={"hit": torch.tensor([1.0, 0, 0, 0, 0, 0])},
        finished=torch.tensor([True] * 5 + [False]),
    )
    # The first answer, a hit, has read the first two profiles. The title is Red Lamp.
    paid = ProfileReward()(batch)
    assert_close(paid.total, torch.tensor([1.0, 0.1, 0.1 + 0.4 + 0.5, 0.4, 0.1 + 0.25, 0.0]))


def test_advantages_have_the_divisor_of_the_group():
    # Mean 0.4; squares 0.25, 0.09, 0.09, 0.01 of 4 are 0.11, deviation 0.331662.
    given = GroupRelative(epsilon=0.0, unbiased=False)(toy_batch(["a"] * 4, rewards=[0.9, 0.1, 0.1, 0.5]))
    assert_close(given, torch.tensor([1.5076, -0.9045, -0.9045, 0.3015]), atol=1e-4, rtol=0)


def test_they_are_a_rollout_and_a_shaper():
    check_rollout(WithHelper(Free(max_new_tokens=3)))
    check_rollout(WithHelper(Free(max_new_tokens=3), profiles=2))
    check_shaper(ProfileReward())


def test_settings_that_cannot_work_are_refused():
    with pytest.raises(ValueError, match="profiles are free text"):
        WithHelper(Constrained())
    with pytest.raises(ValueError, match="profiles=0"):
        WithHelper(Free(), profiles=0)


def test_the_variant_is_whole():
    composed = compose_checked("train", ["variant=m_grpo"], CONFIG_DIR)
    assert composed.faults == []
    check_config(composed.config, trial_faults)
    assert (composed.config.advantage.unbiased, composed.config.loss.level) == (False, "sequence")
