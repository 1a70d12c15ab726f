from __future__ import annotations

from dataclasses import replace
from math import log, sqrt

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from mllmrec.config import CONFIG_DIR, check_config
from mllmrec.config.compose import compose_checked
from mllmrec.errors import ConfigError
from mllmrec.rl.advantages import GroupRelative
from mllmrec.rollout.base import Turn
from mllmrec.rollout.constrained import Constrained
from mllmrec.rollout.enumerated import Enumerated
from mllmrec.rollout.free import Free
from mllmrec.testing import check_advantage, check_rollout, toy_batch, toy_speaker
from mllmrec.testing.toys import toy_examples
from mllmrec.testing.trials import trial_faults
from mllmrec.variants.xrpo import Allocated, Novelty


def with_means(rewards, means, **settings):
    """A batch whose rows have these mean log-probabilities of their learnt tokens."""
    batch = toy_batch(["a"] * len(rewards), rewards=rewards, **settings)
    return replace(batch, old=torch.where(batch.learnt, torch.tensor(means)[:, None], -9.0))


def test_unlikely_right_answers_earn_more():
    batch = with_means([1.0, 0, 1, 0], [-0.5, -1, -1.5, -1])
    part = Novelty(epsilon=0.0)
    # The likely right answer has eta = e^0.5 = 1.6487; the other one e^-0.5 = 0.6065, and 2.5 * 0.3935 is held at 0.5 * 0.866.
    assert_close(part(batch), torch.tensor([0.866, -0.866, 1.299, -0.866]), atol=1e-3, rtol=0)
    assert part.metrics() == {"xrpo/sharpened": 0.25}
    # Below the bound: 1 * 0.3935.
    more = Novelty(weight=1.0, epsilon=0.0)(batch) - GroupRelative(epsilon=0.0)(batch)
    assert_close(more, torch.tensor([0.0, 0, 0.3935, 0]), atol=1e-4, rtol=0)


def test_answers_are_novel_within_their_group():
    rewards, means = [1.0, 0, 1, 0], [-0.5, -1, -1.5, -1]
    both = with_means([*rewards, *rewards], [*means, *(one - 5 for one in means)], group_of=[0] * 4 + [1] * 4)
    given = Novelty()(both)
    assert_close(given[:4], given[4:])


@pytest.mark.parametrize("weighted", [False, True])
def test_it_is_an_advantage(weighted):
    check_advantage(Novelty(), weighted=weighted)


def shares(deviations, sizes, spent, **settings):
    names = [f"sample {place}" for place in range(len(sizes))]
    return (
        Allocated(Constrained(), **settings)
        .shares(np.array(deviations), np.array(sizes), spent, names)
        .tolist()
    )


def test_answers_go_where_the_interval_shrinks_most():
    # Quantiles of t at 0.975: 3.1824 with 3 degrees of freedom, 2.7764 with 4, 2.5706 with 5.
    gain = [0.5 * (3.1824 / 2 - 2.7764 / sqrt(5)), 0.5 * (2.7764 / sqrt(5) - 2.5706 / sqrt(6))]
    assert gain == pytest.approx([0.1748, 0.0961], abs=1e-4)
    # A deviation of 0.3 gains 0.1049 at first: less than 0.1748, and more than 0.0961.
    assert shares([0.5, 0.3, 0.0], [4, 4, 4], 1, bonus=0) == [1, 0, 0]
    assert shares([0.5, 0.3, 0.0], [4, 4, 4], 2, bonus=0) == [1, 1, 0]
    assert shares([0.5, 0.3, 0.0], [4, 4, 4], 3, bonus=0) == [2, 1, 0]


def test_the_bonus_is_for_prompts_with_few_answers():
    # log(1 + 12): 0.8 and 0.5657 times its root for 4 and 8 answers, which differ by more than the gain of 0.1748.
    root = sqrt(log(13))
    assert root * (1 / 2 - 1 / sqrt(8)) > 0.1748
    assert shares([0.0, 0.5], [4, 8], 1, bonus=1.0) == [1, 0]
    assert shares([0.0, 0.5], [4, 8], 1, bonus=0.1) == [0, 1]


def test_prompts_that_tell_nothing_share_evenly():
    assert shares([0.0] * 3, [2, 3, 2], 5, bonus=0) == [2, 1, 2]
    assert shares([0.0] * 3, [2, 2, 2], 0, bonus=0) == [0, 0, 0]


class Scripted:
    """The first example's rewards alternate; the others' are all 0."""

    def __init__(self, rollout):
        self.speaker, self.asked = toy_speaker(rollout), []

    def complete(self, examples, turn, **how):
        self.asked.append((how.get("round_", 0), how.get("which"), turn.group_size))
        return self.speaker.complete(examples, turn, **how)

    @staticmethod
    def judge(batch):
        return replace(batch, rewards=((batch.example_of == 0) & (torch.arange(len(batch)) % 2 == 0)).float())


def test_rounds_spend_what_one_draw_would():
    rollout = Allocated(Constrained(), first=2, bonus=0.0)
    script = Scripted(rollout)
    batch = rollout(toy_examples(3), script, script.judge, Turn(0, 6))
    # 12 answers are left after 2 each, 6 for each round; only the first example's rewards differ.
    assert script.asked == [(0, None, 2), (1, [0], 6), (2, [0], 6)]
    assert batch.groups.sizes.tolist() == [14, 2, 2]
    assert len(batch) == 3 * 6
    assert rollout.metrics() == {"xrpo/least": 2.0, "xrpo/most": 14.0}


@pytest.mark.parametrize(("size", "first"), [(8, 4), (5, 2), (3, 2), (1, 1)])
def test_half_of_the_answers_come_first(size, first):
    rollout = Allocated(Constrained())
    script = Scripted(rollout)
    batch = rollout(toy_examples(2), script, script.judge, Turn(0, size))
    assert script.asked[0] == (0, None, first)
    assert len(batch) == 2 * size


@pytest.mark.parametrize("inner", [Constrained(), Free(max_new_tokens=4)])
def test_it_is_a_rollout(inner):
    check_rollout(Allocated(inner))


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"first": 1}, "first=1"), ({"rounds": 0}, "rounds=0"), ({"alpha": 1.0}, "alpha=1")],
)
def test_settings_that_cannot_work_are_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        Allocated(Constrained(), **settings)
    with pytest.raises(ValueError, match="all answers"):
        Allocated(Enumerated())


def checked(*overrides):
    composed = compose_checked("train", ["variant=xrpo", *overrides], CONFIG_DIR)
    assert composed.faults == []
    check_config(composed.config, trial_faults)
    return composed.config


def test_the_variant_is_a_valid_job():
    cfg = checked("rollout@rollout.inner.inner=free")
    inside = cfg.rollout.inner
    assert [one._target_.rsplit(".", 1)[1] for one in (cfg.rollout, inside, inside.inner)] == [
        "Seeded",
        "Allocated",
        "Free",
    ]
    # Each of its parts goes without the others.
    assert checked("rollout=xrpo_alloc").rollout.inner._target_.endswith("Constrained")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("rollout.inner.inner.temperature=-1", "rollout.inner.inner.temperature=-1: must be greater than 0"),
        ("+rollout.inner.inner.temperatur=1", "rollout.inner.inner.temperatur: no such setting here"),
        ("rollout@rollout.inner=rapo_buffer", "ReplayedAnswers, which draws from another policy"),
        ("rollout@rollout.inner.inner=scaffold", "Scaffold, which is made of draws itself"),
    ],
)
def test_what_stands_inside_is_checked(override, said):
    with pytest.raises(ConfigError) as raised:
        checked(override)
    assert any(said in fault for fault in raised.value.faults)
