from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from mllmrec.step.metrics import rollout_metrics


def test_groups_count_alike_whatever_their_sizes(make_batch):
    # Group 0 has rewards 0 and 1, group 1 five times 0.5, group 2 one 1. Its third example has a reasoning.
    group_of = [1, 0, 1, 2, 1, 0, 1, 1]
    rewards = torch.tensor([0.5, 0.0, 0.5, 1.0, 0.5, 1.0, 0.5, 0.5])
    found = rollout_metrics(
        make_batch(
            rewards,
            group_of=group_of,
            examples=[SimpleNamespace(has_reasoning=place == 2) for place in range(3)],
            parts={"hit": (rewards == 1).float()},
            finished=torch.tensor([True] * 6 + [False] * 2),
        ),
        constrained=True,
    )
    expected = {
        "reward": (0.5 + 0.5 + 1) / 3,
        "reward_std": 0.5**0.5 / 3,
        "frac_reward_zero_std": 2 / 3,
        "rewards/hit/mean": (0.5 + 0 + 1) / 3,
        "reward_with_cot": 1.0,
        "reward_without_cot": 0.5,
        "completions/clipped_ratio": 0.25,
        "completions/mean_length": 2.0,
        "completions/min_length": 2.0,
        "completions/max_length": 2.0,
    }
    assert found == pytest.approx(expected)


def test_answers_are_valid_for_their_own_example(make_batch):
    # Example g lists the item g alone.
    texts = ["[ITEM_0]", "[ITEM_1]", "[ITEM_1]", "nothing", "[ITEM_1]"]
    found = rollout_metrics(
        make_batch(torch.zeros(5), group_of=[0, 1, 1, 0, 0], texts=texts, parts={}), constrained=False
    )
    assert (found["completions/malformed_ratio"], found["completions/unlisted_ratio"]) == (0.2, 0.2)


def test_what_the_policy_did_not_say_to_its_own_prompts_does_not_count_as_its_reward(make_batch):
    # A hint makes the fourth row of group 0 right; group 1 answers a question of the rollout's own.
    rewards = torch.tensor([0.0, 0.0, 0.0, 1.0, 0.9, 0.7])
    batch = make_batch(rewards, group_of=[0, 0, 0, 0, 1, 1], parts={"hit": rewards})
    batch = replace(batch, sources=("policy", "policy", "policy", "hinted", "meta", "meta"))
    found = rollout_metrics(batch, constrained=True)
    assert (found["reward"], found["rewards/hit/mean"]) == (0.0, 0.0)
    # The advantages see all of it: both groups teach.
    assert found["frac_reward_zero_std"] == 0.0
    assert found["reward_std"] == pytest.approx((0.5 + 0.2 / 2**0.5) / 2)
