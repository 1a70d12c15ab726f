"""Step-GRPO: places of all ranked lists of a prompt are compared with each other, by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from mllmrec.config import CONFIG_DIR, check_config
from mllmrec.config.compose import compose_checked
from mllmrec.rl.groups import Groups
from mllmrec.testing import check_advantage, toy_batch
from mllmrec.testing.trials import trial_faults
from mllmrec.variants.step_grpo import LATER, StepRelative, pooled, with_later

# Two lists of a prompt, with three steps and two.
SCORES = torch.tensor([[4.0, 2, 6], [-1, 3, 9]])
THERE = torch.tensor([[True, True, True], [True, True, False]])
# Mean 2.8; squared distances 1.44, 0.64, 10.24, 14.44, 0.04 sum to 26.8, of 4 is 6.7, deviation 2.588436.
GIVEN = torch.tensor([[0.4636, -0.3091, 1.2363], [-1.4681, 0.0773, 0]])


def test_steps_of_all_answers_are_pooled():
    groups = Groups(torch.tensor([0, 0]))
    assert_close(pooled(SCORES, THERE, groups), GIVEN, atol=1e-4, rtol=0)
    centred = torch.where(THERE, SCORES - 2.8, 0.0)
    assert_close(pooled(SCORES, THERE, groups, "none"), centred)


@pytest.mark.parametrize(
    ("later", "expected"),
    [
        ("none", GIVEN),
        ("sum", torch.tensor([[1.3908, 0.9272, 1.2363], [-1.3908, 0.0773, 0]])),
        ("max", torch.tensor([[1.2363, 1.2363, 1.2363], [0.0773, 0.0773, 0]])),
    ],
)
def test_what_a_step_gets_of_later_ones(later, expected):
    assert_close(with_later(GIVEN, THERE, later), expected, atol=1e-4, rtol=0)


def test_tokens_have_the_advantage_of_their_place():
    batch = toy_batch(["a", "b"], rewards=[0.0, 0.0])
    segments = torch.full((2, batch.learnt.shape[1]), -1)
    segments[0, :2] = torch.tensor([0, 1])
    segments[1, 1] = 0  # this list has one place
    batch = replace(batch, place_rewards=torch.tensor([[1.0, 0], [0, 7]]), segments=segments)
    # 1, 0 and 0: mean 1/3, deviation 0.577350.
    expected = torch.zeros(segments.shape)
    expected[0, :2] = torch.tensor([1.154699, -0.577350])
    expected[1, 1] = -0.577350
    assert_close(StepRelative()(batch), expected, atol=1e-5, rtol=0)
    nowhere = replace(batch, segments=torch.full_like(segments, -1))
    assert not StepRelative()(nowhere).any()


def test_prompts_are_not_mixed_and_weights_count():
    groups = Groups(torch.tensor([0, 1, 0]), torch.tensor([0.2, 1.0, 0.8]))
    # Of the first prompt's steps, the one with a reward has a weight of 0.2: deviation 0.4.
    given = pooled(torch.tensor([[1.0], [5], [0]]), torch.ones(3, 1, dtype=torch.bool), groups)
    assert_close(given[:, 0], torch.tensor([2.0, 0, -0.5]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("later", LATER)
def test_it_is_an_advantage(later):
    check_advantage(StepRelative(later))
    check_advantage(StepRelative(later, scale=False), weighted=True)


def test_what_cannot_work_is_refused():
    with pytest.raises(ValueError, match="none, sum, max"):
        StepRelative("mean")
    with pytest.raises(ValueError, match="variant=step_grpo"):
        StepRelative()(replace(toy_batch(["a"], rewards=[1.0]), place_rewards=None))


def test_the_variant_is_whole():
    composed = compose_checked("train", ["variant=step_grpo"], CONFIG_DIR)
    assert composed.faults == []
    check_config(composed.config, trial_faults)
    assert composed.config.reward.credit == "so_far"
