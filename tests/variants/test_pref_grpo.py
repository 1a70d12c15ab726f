"""Pref-GRPO: the printed case, and a shaper that compares rewards."""

from __future__ import annotations

import torch
from torch.testing import assert_close

from mllmrec.config import CONFIG_DIR, check_config
from mllmrec.config.compose import compose_checked
from mllmrec.rl.advantages import group_relative
from mllmrec.rl.groups import Groups
from mllmrec.testing import check_shaper, toy_batch
from mllmrec.variants.pref_grpo import WinRate, win_rates


def test_each_row_earns_its_share_of_wins():
    # The first beats all; the second beats the third and ties with the fourth; the third beats the fourth.
    points = torch.tensor([[0, 1, 1, 1], [0, 0, 1, 0.5], [0, 0, 0, 1], [0, 0.5, 0, 0]])
    one = torch.zeros(4, dtype=torch.long)
    shares = win_rates(points, one)
    assert_close(shares, torch.tensor([1, 0.5, 1 / 3, 1 / 6]))
    advantages = group_relative(shares, Groups(one))
    assert_close(advantages, torch.tensor([1.3883, 0, -0.4628, -0.9256]), atol=1e-4, rtol=0)


def test_the_higher_reward_wins_however_little_it_is_higher():
    batch = toy_batch(["a"] * 6, rewards=[0.9, 0.89, 0.1, 5.0, 5.0, 7.0], group_of=[0, 0, 0, 1, 1, 2])
    assert WinRate()(batch).total.tolist() == [1.0, 0.5, 0.0, 0.5, 0.5, 0.5]
    assert WinRate(tie=0.05)(batch).total.tolist() == [0.75, 0.75, 0.0, 0.5, 0.5, 0.5]


def test_it_is_a_shaper():
    check_shaper(WinRate())


def test_the_variant_composes():
    composed = compose_checked("train", ["variant=pref_grpo"], CONFIG_DIR)
    assert composed.faults == []
    check_config(composed.config)
    assert composed.config.reward._target_ == "mllmrec.rewards.semantic.Semantic"
