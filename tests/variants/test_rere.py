"""ReRe: the printed case, groups without a hit, and ties."""

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
from mllmrec.rollout.enumerated import Enumerated
from mllmrec.step.collector import Collector
from mllmrec.testing import check_shaper, toy_batch, toy_speaker
from mllmrec.testing.toys import toy_examples
from mllmrec.variants.rere import RankPenalty


def judged(rewards, logprobs, group_of=None):
    """A batch whose rows have these log-probabilities as wholes."""
    batch = toy_batch(["[ITEM_1]"] * len(rewards), rewards=rewards, group_of=group_of)
    first = torch.arange(batch.learnt.shape[1]) == 0
    return replace(batch, old=torch.tensor(logprobs)[:, None] * first)


def test_likely_wrong_answers_lose_most():
    # The target is the second in the order of likelihood.
    batch = judged([0.0, 1.0, 0.0, 0.0], [-1.0, -2.0, -3.0, -4.0])
    shaped = RankPenalty()(batch)
    assert_close(shaped.total, torch.tensor([-0.3904, 1.0, -0.1952, -0.1681]), atol=1e-4, rtol=0)
    advantages = GroupRelative()(with_rewards(batch, shaped))
    assert_close(advantages, torch.tensor([-0.7134, 1.4813, -0.4053, -0.3626]), atol=1e-4, rtol=0)


def test_groups_without_a_hit_lose_nothing_and_ties_share():
    batch = judged([0.0, 0.0, 1.0, 0.0, 0.0], [-1.0, -2.0, -9.0, -1.0, -1.0], group_of=[0, 0, 1, 1, 1])
    # Places 0 and 1 are shared: 1 / log2(2.5) = 0.7565 twice, and 1 / log2(4) = 0.5 at place 2; their sum is 2.0129.
    shaped = RankPenalty(weight=2.0)(batch)
    assert_close(shaped.total, torch.tensor([0, 0, 1, -0.7516, -0.7516]), atol=1e-4, rtol=0)


def test_all_candidates_are_ordered_by_their_probabilities():
    rollout, reward = Enumerated(), HitFormat(invalid=0.0)
    collector = Collector(toy_speaker(rollout), rollout, reward, shapers=[RankPenalty()])
    batch = collector.collect(toy_examples(1), Turn(step=0, group_size=2))
    assert batch.weights.argsort(descending=True).tolist() == [0, 1, 2]
    assert_close(batch.rewards, torch.tensor([1.0, -0.2961, -0.2346]), atol=1e-4, rtol=0)


def test_it_is_a_shaper():
    check_shaper(RankPenalty())
    with pytest.raises(ValueError, match="at least 0"):
        RankPenalty(weight=-1.0)


def test_the_variant_composes():
    composed = compose_checked("train", ["variant=rere"], CONFIG_DIR)
    assert composed.faults == []
    check_config(composed.config)
