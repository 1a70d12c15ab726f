"""Rewarding the Unlikely: the printed case, ties, and what stays as it is."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from mllmrec.config import CONFIG_DIR, check_config
from mllmrec.config.compose import compose_checked
from mllmrec.rewards.base import with_rewards
from mllmrec.rl.advantages import GroupRelative
from mllmrec.testing import check_shaper, toy_batch
from mllmrec.variants.unlikeliness import Unlikeliness, ranks_within


def judged(rewards, logprobs, group_of=None):
    """A batch in which every token of a row has the same log-probability."""
    batch = toy_batch(["[ITEM_1]"] * len(rewards), rewards=rewards, group_of=group_of)
    old = torch.tensor(logprobs)[:, None].expand(batch.learnt.shape)
    return replace(batch, old=torch.where(batch.learnt, old, 0.0))


def test_likely_right_answers_earn_less():
    batch = judged([1.0, 1.0, 0.0, 1.0], [-0.2, -1.0, -0.5, -2.0])
    shaped = Unlikeliness()(batch)
    # k = [3, 1, 2, 0], and a quarter of k / 4 is lost.
    assert_close(shaped.parts["likelihood_rank"], torch.tensor([0.75, 0.25, 0.5, 0.0]))
    assert_close(shaped.total, torch.tensor([0.8125, 0.9375, 0.0, 1.0]))
    advantages = GroupRelative(epsilon=1e-6)(with_rewards(batch, shaped))
    assert_close(advantages, torch.tensor([0.2689, 0.5377, -1.4788, 0.6722]), atol=1e-4, rtol=0)


def test_equal_answers_share_their_ranks_and_groups_are_apart():
    values, group_of = torch.tensor([-1.0, -1.0, -2.0, -5.0, -1.0]), torch.tensor([0, 0, 0, 1, 1])
    assert ranks_within(values, group_of).tolist() == [1.5, 1.5, 0.0, 0.0, 1.0]


def test_penalties_stay_and_groups_of_equal_rewards_may():
    batch = judged([1.0, 1.0, -1.0, 1.0], [-1.0, -2.0, -1.0, -2.0], group_of=[0, 0, 1, 1])
    assert Unlikeliness()(batch).total.tolist() == [0.875, 1.0, -1.0, 1.0]
    assert Unlikeliness(equal=False)(batch).total.tolist() == [1.0, 1.0, -1.0, 1.0]


def test_the_reasoning_alone_may_be_compared():
    batch = judged([1.0, 1.0], [-1.0, -1.0])
    batch = replace(
        batch,
        old=torch.tensor([[-3.0, -1.0], [-2.0, -9.0]]),
        learnt=torch.ones(2, 2, dtype=torch.bool),
        segments=torch.tensor([[-1, 0], [-1, 0]]),
    )
    assert Unlikeliness().likelihood(batch).tolist() == [-2.0, -5.5]
    assert Unlikeliness(tokens="reasoning").likelihood(batch).tolist() == [-3.0, -2.0]


@pytest.mark.parametrize("shaper", [Unlikeliness(), Unlikeliness(1.0, "reasoning", equal=False)])
def test_it_is_a_shaper(shaper):
    check_shaper(shaper)


def test_wrong_settings_are_refused():
    with pytest.raises(ValueError, match="none of all, reasoning"):
        Unlikeliness(tokens="answer")
    with pytest.raises(ValueError, match="between 0 and 1"):
        Unlikeliness(beta=2.0)


def test_the_variant_composes():
    composed = compose_checked("train", ["variant=unlikeliness"], CONFIG_DIR)
    assert composed.faults == []
    check_config(composed.config)
    assert (composed.config.grpo.group_size, composed.config.grpo.iterations) == (32, 2)
