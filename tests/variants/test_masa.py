from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from mllmrec.config import CONFIG_DIR, check_config
from mllmrec.config.compose import compose_checked
from mllmrec.engine.batches import TokenBatch
from mllmrec.errors import UserError
from mllmrec.rewards.base import with_rewards
from mllmrec.rewards.hit_format import HitFormat
from mllmrec.rl.advantages import GroupRelative
from mllmrec.rollout.base import Turn
from mllmrec.rollout.constrained import Constrained
from mllmrec.rollout.free import Free
from mllmrec.testing import check_rollout, check_shaper, toy_batch, toy_speaker
from mllmrec.testing.toys import toy_examples
from mllmrec.testing.trials import trial_faults
from mllmrec.variants.masa import META, QUESTION, MetaReward, MetaRollouts, Prediction, read_prediction

EXAMPLES = toy_examples(2)
# Five of eight answers are right.
ANSWERS = ["[ITEM_1] red lamp"] * 5 + ["[ITEM_2] blue lamp"] * 3


def prediction(**said) -> str:
    return json.dumps(said)


def terms_of(*predictions: str, lengths=(2, 3, 4, 5, 6, 9, 9, 9), **settings) -> torch.Tensor:
    """(predictions, 3) terms of the reward, beside answers of these lengths."""
    texts = [*ANSWERS, *predictions]
    groups = [0] * len(ANSWERS) + [1] * len(predictions)
    batch = toy_batch(texts, rewards=[1.0] * 5 + [0.0] * 3 + [-1.0] * len(predictions), group_of=groups)
    mask = torch.arange(10) < torch.tensor([*lengths, *[1] * len(predictions)])[:, None]
    batch = replace(
        batch,
        example_of=torch.zeros(len(texts), dtype=torch.long),
        completions=TokenBatch(torch.ones_like(mask, dtype=torch.long), mask),
        sources=("policy",) * 8 + (META,) * len(predictions),
    )
    rewards = MetaReward(**settings)(batch)
    assert rewards.total[:8].tolist() == [1.0] * 5 + [0.0] * 3
    terms = torch.stack([rewards.parts[name] for name in MetaReward.parts], 1)
    assert not terms[:8].any()
    assert_close(rewards.total[8:], terms[8:].mean(1))
    return terms[8:]


def test_difficulty_is_paid_for_by_its_distance_from_the_truth():
    terms = terms_of(prediction(**{"pass": 6}), prediction(**{"pass": 5}), "no idea", "{[}")
    assert terms[:, 0].tolist() == pytest.approx([0.5623, 1.0, 0.0, 0.0], abs=1e-4)
    assert not terms[:, 1:].any()


def test_length_is_right_between_the_shortest_and_the_longest_right_answer():
    # Right answers have 2 to 6 tokens; the bounds themselves do not count.
    terms = terms_of(*(prediction(length=length) for length in (2, 3, 5.5, 6, 9)))
    assert terms[:, 1].tolist() == [0.0, 1.0, 1.0, 0.0, 0.0]


def test_notions_count_if_more_right_answers_than_wrong_ones_have_them():
    # red: 5 right. lamp: 5 right and 3 wrong. blue: 3 wrong. sofa: none.
    terms = terms_of(
        prediction(notions=["Red", "red", "blue"]), prediction(notions=["lamp", "sofa", "blue", "red"])
    )
    assert terms[:, 2].tolist() == [0.5, 0.5]
    # The prompt says that the user likes lamps.
    said = terms_of(prediction(notions=["lamp", "sofa", "blue", "red"]), unprompted=True)
    assert said[:, 2].tolist() == pytest.approx([1 / 3])


def test_predictions_are_read_from_the_first_object_and_nonsense_is_left_out():
    text = 'Well: {"notions": [" Red ", 7], "pass": 9, "length": true} {"pass": 1}'
    assert read_prediction(text) == Prediction(("red", "7"), None, None)
    assert read_prediction('{"notions": "red", "pass": 8, "length": 4}') == Prediction((), 8.0, 4.0)


class Predicting:
    """Answers wrong; predicts these numbers of right answers for the examples."""

    def __init__(self, rollout: MetaRollouts, passes: list[str]) -> None:
        self.speaker, self.passes, self.asked = toy_speaker(rollout), passes, []

    def complete(self, examples, turn, *, source="policy", prompts=None, which=None, **given):
        batch = self.speaker.complete(examples, turn, source=source, prompts=prompts, which=which, **given)
        self.asked.append((source, which, turn.group_size, prompts))
        if source == META:
            return replace(batch, texts=[self.passes[place] for place in batch.example_of.tolist()])
        return replace(batch, texts=["[ITEM_3]"] * len(batch))


def judge(batch):
    return with_rewards(batch, HitFormat()(batch))


def drawn(passes=("", ""), group_size=4, **settings):
    rollout = MetaRollouts(Free(max_new_tokens=3), **settings)
    speaker = Predicting(rollout, list(passes))
    return rollout(EXAMPLES, speaker, judge, Turn(0, group_size)), speaker, rollout.metrics()


def test_predictions_are_groups_of_their_own_that_another_prompt_asks_for():
    batch, speaker, metrics = drawn(predictions=2)
    assert batch.group_of.tolist() == [0] * 4 + [1] * 2 + [2] * 4 + [3] * 2
    assert batch.example_of.tolist() == [0] * 6 + [1] * 6
    assert batch.by(META).tolist() == ([False] * 4 + [True] * 2) * 2
    (meta, _, _, prompts), (policy, which, size, own) = speaker.asked
    assert (meta, policy, which, size, own) == (META, "policy", [0, 1], 4, None)
    assert prompts == [f"{example.prompt}\n{QUESTION}" for example in EXAMPLES]
    assert metrics == {"meta/left_out": 0.0}
    # An answer's advantage does not depend on the predictions: both kinds of groups are judged by themselves.
    shaped = MetaReward()(judge(batch))
    assert GroupRelative()(with_rewards(batch, shaped)).tolist() == [0.0] * 12


def test_a_gate_leaves_prompts_out_that_are_too_hard_or_too_easy():
    passes = [prediction(**{"pass": 8}), prediction(**{"pass": 4})]
    batch, speaker, metrics = drawn(passes, gate=[0.05, 0.95])
    assert speaker.asked[1][1] == [1]
    assert batch.group_of.tolist() == [0] * 4 + [1] * 4
    assert batch.example_of.tolist() == [1] * 8
    assert metrics == {"meta/left_out": 0.5}
    # Nothing speaks against a prompt whose predictions cannot be read, and some prompt has to be learnt.
    assert drawn(["what?", passes[1]], gate=[0.05, 0.95])[2] == {"meta/left_out": 0.0}
    assert drawn([passes[0]] * 2, gate=[0.05, 0.95])[2] == {"meta/left_out": 0.0}


def test_settings_that_cannot_work_are_refused():
    with pytest.raises(ValueError, match="predictions are free text"):
        MetaRollouts(Constrained())
    with pytest.raises(ValueError, match="no group to be compared with"):
        MetaRollouts(Free(), predictions=1)
    with pytest.raises(ValueError, match="two shares"):
        MetaRollouts(Free(), gate=[0.9, 0.1])


def test_they_are_a_rollout_and_a_shaper():
    check_rollout(MetaRollouts(Free(max_new_tokens=3)))
    check_rollout(MetaRollouts(Free(max_new_tokens=3), gate=[0.1, 0.9]))
    check_shaper(MetaReward())


def test_a_step_learns_answers_and_predictions(make_step, batch):
    class Length(HitFormat):
        """Pays for each row something else."""

        def __call__(self, batch):
            given = super().__call__(batch)
            return replace(given, total=torch.arange(len(batch)) / len(batch) - 1)

    step = make_step(rollout=MetaRollouts(Free(max_new_tokens=4)), reward=Length(), shapers=[MetaReward()])
    # The question is longer than what the tiny policy takes, which is said.
    with pytest.raises(
        UserError, match=r"a prompt with a hint or question of a rollout or teacher has \d+ tokens"
    ):
        step.collect(batch, 0)
    step.speaker.policy.max_length = 1024
    rollouts = step.collect(batch, 0)
    # Nobody can read these predictions, so only the answers differ in reward.
    assert not rollouts.rewards[rollouts.by(META)].any()
    assert (rollouts.advantages != 0).tolist() == (~rollouts.by(META)).tolist()
    for share in step.loss_shares(rollouts, {}):
        share.backward()
    assert any(weight.grad.norm() > 0 for weight in step.speaker.policy.model.parameters())


def test_the_variant_is_a_valid_job():
    result = compose_checked("train", ["variant=masa"], CONFIG_DIR)
    assert result.faults == []
    check_config(result.config, trial_faults)
    assert (result.config.rollout.gate, result.config.grpo.group_size) == (None, 16)
