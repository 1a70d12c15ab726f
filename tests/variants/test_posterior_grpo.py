"""Posterior-GRPO: the printed case, and what the quality is."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from mllmrec.config import CONFIG_DIR, check_config
from mllmrec.config.compose import compose_checked
from mllmrec.rewards.base import with_rewards
from mllmrec.rewards.hit_format import HitFormat
from mllmrec.testing import check_shaper, toy_batch
from mllmrec.variants.posterior_grpo import Posterior


def test_quality_counts_only_after_success():
    # Right, a valid miss, no valid answer; the reference gives every token a probability of 0.8.
    batch = toy_batch(["[ITEM_1]", "[ITEM_2]", "a lamp"])
    batch = replace(batch, reference=torch.where(batch.learnt, torch.tensor(0.8).log(), 0.0))
    reward = HitFormat(hit_weight=1.0, format_weight=1.0, invalid=0.0)
    shaped = Posterior()(with_rewards(batch, reward(batch)))
    assert_close(shaped.total, torch.tensor([2.8, 1.0, 0.0]))
    assert_close(shaped.parts["quality"], torch.full((3,), 0.8))


def test_the_quality_is_the_answers_and_not_the_reasonings():
    batch = toy_batch(["a"], rewards=[1.0])
    batch = replace(
        batch,
        reference=torch.tensor([[0.1, 0.4, 0.9]]).log(),
        learnt=torch.ones(1, 3, dtype=torch.bool),
        segments=torch.tensor([[-1, 0, 0]]),
    )
    # The geometric mean of 0.4 and 0.9 is 0.6.
    assert_close(Posterior(weight=0.5)(batch).total, torch.tensor([1.3]))


def test_it_is_a_shaper():
    check_shaper(Posterior())
    with pytest.raises(ValueError, match="at least 0"):
        Posterior(weight=-1.0)


def test_the_variant_composes():
    composed = compose_checked("train", ["variant=posterior_grpo"], CONFIG_DIR)
    assert composed.faults == []
    check_config(composed.config)
    assert composed.config.reward.format_weight == 1.0
