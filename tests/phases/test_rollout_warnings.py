from __future__ import annotations

import dataclasses
import logging
from types import SimpleNamespace

import pytest
import torch

from mllmrec.phases.base import OptimizerSettings, PhaseModule
from mllmrec.phases.rollout_warnings import RolloutWarnings
from mllmrec.rewards.hit_format import HitFormat
from mllmrec.rollout.constrained import Constrained
from mllmrec.rollout.free import Free

WELL = {
    "reward": 0.5,
    "frac_reward_zero_std": 0.5,
    "kl": 0.1,
    "entropy": 2.0,
    "completions/mean_length": 12.0,
    "completions/malformed_ratio": 0.2,
    "completions/unlisted_ratio": 0.2,
    "completions/clipped_ratio": 0.3,
}


class Scripted(PhaseModule):
    """Logs the numbers that a batch holds; its answers are free."""

    name = "grpo"
    collector = SimpleNamespace(rollout=Free(max_new_tokens=3))

    def __init__(self):
        super().__init__(torch.nn.Linear(1, 1), OptimizerSettings(0.1), 20)

    def training_step(self, batch, batch_idx):
        self.log_step({**WELL, **batch[0]})
        self.update([self.model(torch.ones(1)).sum()])


@pytest.fixture
def warned(fit, caplog):
    """The warnings that a list of logged steps causes."""

    def run(steps, settings=None):
        limits = {"steps": 3, "kl": 1.0, "invalid": 0.9, **(settings or {})}
        with caplog.at_level(logging.WARNING, logger="mllmrec"):
            fit(Scripted(), [[step] for step in steps], callbacks=[RolloutWarnings(**limits)])
        return own(caplog)

    return run


def own(caplog):
    """The messages of the module under test; clears the log."""
    messages = [record.message for record in caplog.records if record.name.endswith(".rollout_warnings")]
    caplog.clear()
    return messages


@pytest.mark.parametrize(
    ("held", "ended", "words"),
    [
        ({"frac_reward_zero_std": 1.0}, {"frac_reward_zero_std": 0.99}, "raise grpo.group_size"),
        ({"kept/answers": 0.0}, {"kept/answers": 0.01}, "lower grpo.threshold"),
        ({"kl": 1.01}, {"kl": 1.0}, "lower grpo.learning_rate, or raise grpo.beta"),
        (
            {"completions/malformed_ratio": 0.75},
            {"completions/malformed_ratio": 0.65},
            "75% did not have the right form, 20% named an item",
        ),
        (
            {"completions/clipped_ratio": 0.95},
            {"completions/clipped_ratio": 0.85},
            "95% were cut off at the length limit",
        ),
    ],
)
def test_each_kind_is_warned_of_once_and_after_enough_steps_in_a_row(warned, held, ended, words):
    # Two bad steps and a better one are not three in a row; then the fault lasts for seven.
    messages = warned([held] * 2 + [ended] + [held] * 2 + [ended] * 4)
    assert messages == []
    (message,) = warned([held] * 2 + [ended] + [held] * 7)
    assert message.startswith("grpo: for 3 steps in a row ")
    assert words in message


@pytest.mark.parametrize(
    ("held", "ended", "words"),
    [
        ({"entropy": 0.09}, {"entropy": 0.1}, "now 0.09 nats per token in place of 2"),
        ({"completions/mean_length": 48.1}, {"completions/mean_length": 48.0}, "4 times as long"),
        ({"completions/mean_length": 2.9}, {"completions/mean_length": 3.0}, "now 2.9 tokens in place of 12"),
    ],
)
def test_what_collapses_or_blows_up_is_compared_with_the_first_step(warned, held, ended, words):
    # The first step has 2 nats and 12 tokens: a twentieth is 0.1 nats, a quarter and four times are 3 and 48 tokens.
    assert warned([{}] + [held] * 2 + [ended] + [held] * 2 + [ended]) == []
    (message,) = warned([{}] + [held] * 4)
    assert words in message
    assert warned([held] * 5) == []


def test_answers_of_candidates_alone_have_no_length_to_watch(warned, monkeypatch):
    monkeypatch.setattr(Scripted, "collector", SimpleNamespace(rollout=Constrained()))
    assert warned([{}] + [{"completions/mean_length": 99.0}] * 4) == []


def test_a_share_of_equal_rewards_can_be_the_limit(warned):
    held = [{"frac_reward_zero_std": 0.75}] * 3
    (message,) = warned(held, {"equal": 0.75})
    assert "only 25% of the prompts have had two answers with different rewards" in message
    assert warned(held, {"equal": 0.76}) == []


def test_a_resumed_phase_counts_on_and_says_nothing_twice(fit, caplog):
    held = {"kl": 1.5}
    before, after = (RolloutWarnings(steps=3, kl=1.0, invalid=0.9) for _ in range(2))
    fit(Scripted(), [[held]] * 2, callbacks=[before])
    after.load_state_dict({**before.state_dict(), "said": [False] * 6})
    caplog.clear()
    fit(Scripted(), [[{**held, "entropy": 0.01}]] * 4, callbacks=[after])
    far, collapsed = own(caplog)
    assert "the KL" in far
    assert "the entropy" in collapsed


def test_kinds_do_not_hide_each_other(warned):
    messages = warned([{"kl": 1e9, "frac_reward_zero_std": 1.0}] * 3)
    assert len(messages) == 2
    assert "now 1e+09" in messages[1]


def test_a_stage_of_few_steps_is_warned_of_what_held_all_along(warned):
    dead = {"frac_reward_zero_std": 1.0}
    assert warned([{}, dead]) == []
    (message,) = warned([dead, dead])
    assert message.startswith("grpo: for 2 steps in a row no prompt has had")


def test_a_healthy_phase_brings_no_warning(warned):
    assert warned([{}] * 10) == []


def test_text_without_answers_is_warned_of(make_grpo, batch, fit, caplog):
    # Random text names no item: every answer is malformed, and every reward is -1.
    stage = make_grpo(rollout=Free(max_new_tokens=3), steps=4)
    with caplog.at_level(logging.WARNING, logger="mllmrec.phases.rollout_warnings"):
        fit(stage, [batch] * 4, callbacks=[RolloutWarnings(steps=4, kl=1.0, invalid=0.9)])
    equal, invalid = own(caplog)
    assert "(all have -1 on average)" in equal
    assert "100% did not have the right form, 0% named an item" in invalid


def test_answers_with_items_that_were_not_listed_are_counted(make_grpo, batch):
    stage = make_grpo(rollout=Free(max_new_tokens=3), group_size=2)
    rollouts = stage.step.collect(batch, 0)
    listed = [int(example.candidates[0]) for example in batch]
    foreign = next(item for item in range(12) if item not in batch[1].candidates)
    texts = [f"[ITEM_{listed[0]}]", "[ITEM_0", f"[ITEM_{foreign}]", f"[ITEM_{foreign}] x\n"]
    metrics = stage.rollout_metrics(dataclasses.replace(rollouts, texts=texts))
    assert metrics["completions/malformed_ratio"] == 0.25
    assert metrics["completions/unlisted_ratio"] == 0.5


def test_a_constant_reward_and_a_policy_that_runs_away_are_warned_of(make_grpo, batch, fit, caplog):
    class Constant(HitFormat):
        def judge(self, completion, question):
            return {"reward": 0.3, "format": 1.0, "hit": 0.0}

    watch = RolloutWarnings(steps=5, kl=1e-3, invalid=0.9)
    with caplog.at_level(logging.WARNING, logger="mllmrec.phases.rollout_warnings"):
        fit(make_grpo(reward=Constant(), steps=5), [batch] * 5, callbacks=[watch])
    (message,) = own(caplog)
    assert "(all have 0.3 on average)" in message
    stage = make_grpo(
        beta=1e-6, learning_rate=0.1, steps=12, iterations=2, group_size=16, micro_batch_size=32
    )
    with caplog.at_level(logging.WARNING, logger="mllmrec.phases.rollout_warnings"):
        fit(stage, [batch] * 12, callbacks=[RolloutWarnings(steps=5, kl=1e-3, invalid=0.9)])
    assert any("the KL to the policy at the start of the phase" in message for message in own(caplog))
