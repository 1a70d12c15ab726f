from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from mllmrec.config import CONFIG_DIR, check_config
from mllmrec.config.compose import compose_checked
from mllmrec.rewards.base import with_rewards
from mllmrec.rewards.hit_format import HitFormat
from mllmrec.rl.advantages import GroupRelative
from mllmrec.rollout.base import Turn
from mllmrec.rollout.constrained import Constrained
from mllmrec.rollout.enumerated import Enumerated
from mllmrec.testing import check_rollout, toy_speaker
from mllmrec.testing.toys import toy_examples
from mllmrec.testing.trials import trial_faults
from mllmrec.variants.scaf_grpo import Scaffold

# Toy items are 1 Red Lamp, 2 Blue Lamp, 3 Old Clock; the examples' targets are 1 and 2.
EXAMPLES = toy_examples(2)


class Knowing:
    """Knows the second example's answer, and the first one's once the prompt has these words."""

    def __init__(self, words: str, rollout: Scaffold) -> None:
        self.words, self.speaker, self.rounds = words, toy_speaker(rollout), []

    def complete(self, examples, turn, *, prompts=None, round_=0, **given):
        batch = self.speaker.complete(examples, turn, prompts=prompts, round_=round_, **given)
        self.rounds.append((round_, len(batch)))
        knows = prompts is not None and self.words in prompts[0]
        says = {0: "[ITEM_1]" if knows else "[ITEM_3]", 1: "[ITEM_2]"}
        return replace(batch, texts=[says[place] for place in batch.example_of.tolist()])


def judge(batch):
    return with_rewards(batch, HitFormat()(batch))


def drawn(words="one of", step=50, **settings):
    rollout = Scaffold(Constrained(), **settings)
    speaker = Knowing(words, rollout)
    batch = rollout(EXAMPLES, speaker, judge, Turn(step, 8)).by_group()
    return batch, speaker, rollout.metrics()


def test_the_first_right_answer_to_a_hint_replaces_one_wrong_answer():
    batch, speaker, metrics = drawn()
    # The first word did not help, the shortlist did, and the answer was not told.
    assert speaker.rounds == [(0, 16), ("first_word", 1), ("shortlist", 1)]
    assert batch.groups.sizes.tolist() == [8, 8]
    assert sorted(batch.rewards[:8].tolist()) == [0.0] * 7 + [1.0]
    row = batch.texts.index("[ITEM_1]")
    assert [place for place, one in enumerate(batch.by("hinted").tolist()) if one] == [row]
    advantages = GroupRelative()(batch)
    assert advantages[row].item() == pytest.approx(2.4749, abs=1e-3)
    assert advantages[[place for place in range(8) if place != row]].tolist() == pytest.approx(
        [-0.3536] * 7, abs=2e-4
    )
    assert advantages[8:].tolist() == [0.0] * 8
    assert metrics == {"scaffold/failed": 0.5, "scaffold/rescued": 0.5}


@pytest.mark.parametrize("keeps_hint", [True, False])
def test_the_hinted_answer_is_learnt_under_the_prompt_that_is_asked_for(keeps_hint):
    batch, speaker, _ = drawn(keeps_hint=keeps_hint)
    row = batch.texts.index("[ITEM_1]")
    prompt = int(batch.prompt_of[row])
    length = int(batch.prompts.mask[prompt].sum())
    own = len(EXAMPLES[0].prompt.split())
    # "Hint: it is one of [ITEM_1] Red Lamp; [ITEM_2] Blue Lamp; [ITEM_3] Old Clock": 5 words and 3 for each item.
    assert length == own + (14 if keeps_hint else 0)
    # Whoever is asked for the old probabilities gives those under that prompt, so the ratio is 1.
    assert batch.old is None
    scored = speaker.speaker.score(batch)
    (again,) = speaker.speaker.scores(
        speaker.speaker.policy.model, batch, torch.tensor([row]), entropy=False
    ).logprobs
    assert_close(scored[row], again)


def test_no_group_is_given_a_hint_before_step_fifty():
    batch, speaker, metrics = drawn(step=49)
    assert speaker.rounds == [(0, 16)]
    assert not batch.by("hinted").any()
    assert metrics == {"scaffold/failed": 0.5, "scaffold/rescued": 0.0}


def test_a_group_that_no_hint_helps_stays_as_it_is():
    batch, speaker, _ = drawn("never said")
    assert [name for name, _ in speaker.rounds] == [0, "first_word", "shortlist", "answer"]
    assert batch.rewards[:8].tolist() == [0.0] * 8
    assert not batch.by("hinted").any()


def test_the_ladder_tells_more_with_each_rung():
    rollout = Scaffold(Constrained(), shortlist=2)
    question = toy_speaker(rollout).names.question(EXAMPLES[0])
    first, listed, answer = (rollout.hint(level, EXAMPLES[0], question) for level in rollout.levels)
    assert first == "Hint: its title begins with Red"
    others = ("[ITEM_2] Blue Lamp", "[ITEM_3] Old Clock")
    assert listed in [f"Hint: it is one of [ITEM_1] Red Lamp; {other}" for other in others]
    assert answer == "Hint: it is [ITEM_1] Red Lamp"


def test_settings_that_cannot_work_are_refused():
    with pytest.raises(ValueError, match="each group has the right one"):
        Scaffold(Enumerated())
    with pytest.raises(ValueError, match="category is none of first_word, shortlist, answer"):
        Scaffold(Constrained(), levels=["category"])


@pytest.mark.parametrize("keeps_hint", [True, False])
def test_it_is_a_rollout(keeps_hint):
    check_rollout(Scaffold(Constrained(), keeps_hint=keeps_hint))


def test_a_step_learns_the_hinted_answer(make_step, batch):
    class Never(HitFormat):
        """Pays only what was said after a hint."""

        def __call__(self, batch):
            given = super().__call__(batch)
            return replace(given, total=given.total * batch.by("hinted"))

    step = make_step(rollout=Scaffold(Constrained(), warmup_steps=0, levels=["answer"] * 20), reward=Never())
    rollouts = step.collect(batch, 0)
    assert rollouts.by("hinted").sum() > 0
    for share in step.loss_shares(rollouts, {}):
        share.backward()
    gradients = [weight.grad for weight in step.speaker.policy.model.parameters() if weight.grad is not None]
    assert sum(float(gradient.norm()) for gradient in gradients) > 0


def test_the_variant_is_a_valid_job():
    result = compose_checked("train", ["variant=scaf_grpo", "seed=3"], CONFIG_DIR)
    assert result.faults == []
    check_config(result.config, trial_faults)
    assert (result.config.rollout.seed, result.config.grpo.beta) == (3, 0.0)
