from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from mllmrec.rewards.base import with_rewards
from mllmrec.rewards.hit_format import HitFormat
from mllmrec.rl.advantages import GroupRelative
from mllmrec.rollout.base import Turn
from mllmrec.rollout.constrained import Constrained
from mllmrec.rollout.enumerated import Enumerated
from mllmrec.rollout.free import Free
from mllmrec.testing import check_rollout, toy_speaker
from mllmrec.testing.toys import toy_examples
from mllmrec.variants.icl_seed import Seeded
from mllmrec.variants.rapo import ReplayedAnswers
from mllmrec.variants.reinforce_ada import Adaptive
from mllmrec.variants.scaf_grpo import Scaffold
from mllmrec.variants.xrpo import Allocated

# Targets of the toy examples: items 1, 2, 3, 1, ...; histories are given here.
HISTORIES = ([1, 2, 3], [1, 2, 9], [7, 8], [1, 2, 3])
EXAMPLES = [
    replace(example, prompt=f"prompt {place}", history=np.array(history))
    for place, (example, history) in enumerate(zip(toy_examples(4), HISTORIES, strict=True))
]


class Learner:
    """Knows the answers to some examples; others it knows once its prompt shows an example with these words."""

    def __init__(self, rollout, knows, words="prompt 1", room=None):
        self.rollout, self.knows, self.words, self.room = rollout, knows, words, room
        self.speaker, self.seen = toy_speaker(rollout), []

    def complete(self, examples, turn, *, prompts=None, which=None, **how):
        batch = self.speaker.complete(examples, turn, prompts=prompts, which=which, **how)
        shown = dict(zip(which or [], prompts or [], strict=True))
        self.seen += shown.values()
        right = "[ITEM_{}]".format
        texts = []
        for row, place in enumerate(batch.example_of.tolist()):
            told = self.words in shown.get(place, "") and row % 2 == 0
            knows = examples[place].sample_id in self.knows or told
            texts.append(right(examples[place].target + 1 if knows else 9))
        return replace(batch, texts=texts)

    def fits(self, prompts):
        return [self.room is None or len(prompt) <= self.room for prompt in prompts]

    @staticmethod
    def judge(batch):
        return with_rewards(batch, HitFormat(invalid=0.0)(batch))

    def step(self, number, places, group_size=4):
        examples = [EXAMPLES[place] for place in places]
        return self.rollout(examples, self, self.judge, Turn(number, group_size)).by_group()


def test_a_failed_prompt_is_asked_again_after_what_similar_users_solved():
    run = Learner(Seeded(Constrained()), knows={"sample 1", "sample 2"})
    first = run.step(0, [1, 2])
    assert len(first) == 8
    assert run.rollout.metrics() == {"xrpo/failed": 0.0, "xrpo/rescued": 0.0}
    second = run.step(1, [0, 2])
    # Two of three items are shared with example 1, none with example 2; the failed prompt stands last.
    assert run.seen == ["Example:\nprompt 1\n[ITEM_2]\n\nExample:\nprompt 2\n[ITEM_3]\n\nprompt 0"]
    assert second.group_of.tolist() == [0] * 8 + [1] * 4
    assert second.judged().tolist() == [0] * 4 + [1, 0, 1, 0] + [1] * 4
    assert second.by("seeded").tolist() == [False] * 4 + [True] * 4 + [False] * 4
    assert run.rollout.metrics() == {"xrpo/failed": 0.5, "xrpo/rescued": 0.5}
    # Two of eight: (1 - 1/4) / sqrt(8/7 * 3/16) = 1.6202, and -0.5401.
    advantages = GroupRelative(epsilon=0.0)(second.take(torch.arange(8)))
    assert_close(advantages[4:6], torch.tensor([1.6202, -0.5401]), atol=1e-4, rtol=0)
    # What was solved with help helps others.
    run.step(2, [3])
    assert run.seen[-1].startswith("Example:\nprompt 0\n[ITEM_1]\n\nExample:\nprompt 1")


def test_a_group_that_examples_do_not_help_stays_as_it_is():
    run = Learner(Seeded(Constrained()), knows={"sample 2"}, words="never said")
    run.step(0, [2])
    second = run.step(1, [0])
    assert len(run.seen) == 1
    assert not second.by("seeded").any()
    assert run.rollout.metrics() == {"xrpo/failed": 1.0, "xrpo/rescued": 0.0}


def test_neither_the_same_user_nor_what_nobody_solved_is_shown():
    run = Learner(Seeded(Constrained()), knows={"sample 0"})
    assert len(run.step(0, [1])) == 4
    run.step(1, [0])
    same = replace(EXAMPLES[3], user_id=EXAMPLES[0].user_id)
    assert run.rollout.prompt(same, run) == ""
    assert run.rollout.prompt(EXAMPLES[3], run) == "Example:\nprompt 0\n[ITEM_1]\n\nprompt 3"
    assert run.seen == []


def test_as_many_are_shown_as_fit():
    run = Learner(Seeded(Constrained()), knows={"sample 1", "sample 2"})
    run.step(0, [1, 2])
    one = "Example:\nprompt 1\n[ITEM_2]\n\nprompt 0"
    run.room = len(one)
    assert run.rollout.prompt(EXAMPLES[0], run) == one
    run.room -= 1
    assert run.rollout.prompt(EXAMPLES[0], run) == ""


def test_the_latest_solved_prompts_are_kept_and_saved():
    run = Learner(Seeded(Constrained(), size=2), knows={"sample 0", "sample 1", "sample 2"})
    for number, place in enumerate([0, 1, 0, 2]):
        run.step(number, [place])
    again = Seeded(Constrained(), size=2)
    again.load_state_dict(run.rollout.state_dict())
    assert (
        again.prompt(EXAMPLES[3], run)
        == "Example:\nprompt 0\n[ITEM_1]\n\nExample:\nprompt 2\n[ITEM_3]\n\nprompt 3"
    )


@pytest.mark.parametrize("keeps", [True, False])
def test_answers_are_learnt_under_the_prompt_that_is_asked_for(keeps):
    run = Learner(Seeded(Constrained(), keeps_exemplars=keeps, draws=2), knows={"sample 1"})
    run.step(0, [1])
    batch = run.step(1, [0])
    (row, _) = batch.by("seeded").nonzero()[:, 0].tolist()
    length = int(batch.prompts.mask[int(batch.prompt_of[row])].sum())
    # "prompt 0" is two words; "Example: prompt 1 [ITEM_2]" four more.
    assert length == (6 if keeps else 2)
    assert batch.old is None


def test_a_prompt_is_as_long_as_the_policy_takes():
    speaker = toy_speaker(Constrained())
    speaker.policy.max_length = 3 + 2  # an answer has at most three tokens
    assert speaker.fits(["two words", "now three words"]) == [True, False]


@pytest.mark.parametrize("inner", [Constrained(), Free(max_new_tokens=4), Allocated(Constrained())])
def test_it_is_a_rollout(inner):
    check_rollout(Seeded(inner))


def test_what_goes_inside_of_what(make_step, batch):
    with pytest.raises(ValueError, match="each group has the right one"):
        Seeded(Enumerated())
    with pytest.raises(ValueError, match="ReplayedAnswers, which draws from another policy"):
        Seeded(ReplayedAnswers(Constrained()))
    with pytest.raises(ValueError, match="Scaffold, which is made of draws itself"):
        Adaptive(Scaffold(Constrained()))
    # Parts inside of parts log their numbers.
    step = make_step(rollout=Seeded(Allocated(Constrained())))
    step.collect(batch, 0)
    logged = {name for part in step.parts for name in part.metrics()}
    assert {"xrpo/most", "xrpo/failed"} <= logged
