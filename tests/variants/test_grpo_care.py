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
from mllmrec.variants.grpo_care import ConsistencyBonus


def judged(accuracies, likelihoods, group_of=None):
    """A batch in which the reference gives every token of a row the same probability."""
    batch = toy_batch(["[ITEM_1]"] * len(accuracies), rewards=accuracies, group_of=group_of)
    logprobs = torch.tensor(likelihoods).log()[:, None].expand(batch.learnt.shape)
    return replace(batch, reference=torch.where(batch.learnt, logprobs, 0.0))


def test_right_answers_as_likely_as_the_mean_right_one_earn_half_more():
    batch = judged([1.0, 1.0, 0.0, 1.0], [0.9, 0.6, 0.95, 0.2])
    # The right rows are 0, 1 and 3 with a mean of 1.7 / 3 = 0.5667. The third row is likely, but wrong.
    shaped = ConsistencyBonus()(batch)
    assert_close(shaped.total, torch.tensor([1.5, 1.5, 0.0, 1.0]))
    assert_close(shaped.parts["consistency_bonus"], torch.tensor([0.5, 0.5, 0.0, 0.0]))
    # Mean 1; variance (1/4 + 1/4 + 1) / 3 = 1/2.
    advantages = GroupRelative()(with_rewards(batch, shaped))
    assert_close(advantages, torch.tensor([0.707, 0.707, -1.414, 0.0]), atol=1e-3, rtol=0)


def test_each_group_has_its_own_mean_and_one_without_a_hit_earns_nothing():
    batch = judged([1.0, 1.0, 0.0, 0.0, 1.0], [0.4, 0.8, 0.9, 0.5, 0.1], group_of=[0, 0, 1, 1, 2])
    assert ConsistencyBonus()(batch).total.tolist() == [1.0, 1.5, 0.0, 0.0, 1.5]


def test_the_likelihood_is_that_of_the_answer_and_at_most_the_cap():
    batch = judged([1.0, 1.0], [0.99, 0.5])
    # Of two tokens the second belongs to the answer.
    row = torch.tensor([0.1, 0.4]).log()
    batch = replace(
        batch,
        reference=torch.stack([batch.reference[0, :2], row]),
        learnt=torch.ones(2, 2, dtype=torch.bool),
        segments=torch.tensor([[0, 0], [-1, 0]]),
    )
    assert_close(ConsistencyBonus().likelihood(batch), torch.tensor([0.95, 0.4]))


def test_the_accuracy_is_a_part_of_the_reward():
    batch = replace(judged([1.2, 0.2], [0.9, 0.9]), parts={"hit": torch.tensor([1.0, 0.0])})
    assert_close(ConsistencyBonus()(batch).total, torch.tensor([1.7, 0.2]))


@pytest.mark.parametrize("shaper", [ConsistencyBonus(), ConsistencyBonus(weight=2.0, margin=0.0)])
def test_it_is_a_shaper(shaper):
    check_shaper(shaper)


def test_the_variant_composes():
    composed = compose_checked("train", ["variant=grpo_care"], CONFIG_DIR)
    assert composed.faults == []
    check_config(composed.config)
    assert composed.config.reference._target_ == "mllmrec.step.reference.Ema"
    assert composed.config.grpo.beta == 0
