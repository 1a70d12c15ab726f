"""GiGPO: places of ranked lists are compared in the same state, by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from mllmrec.config import CONFIG_DIR, check_config
from mllmrec.config.compose import compose_checked
from mllmrec.rl.advantages import GroupRelative
from mllmrec.testing import check_advantage, toy_batch
from mllmrec.variants.gigpo import GroupInGroup, states_of, within_states

FIRST, SECOND = "[ITEM_1]\n[ITEM_2]", "[ITEM_2]\n[ITEM_1]"


@pytest.mark.parametrize("scale", [True, False])
def test_it_is_an_advantage(scale):
    check_advantage(GroupInGroup(scale=scale))
    check_advantage(GroupInGroup(scale=scale), weighted=True)


def test_lists_and_places_are_compared():
    # Lists earn 1, 1, 0, 0: 0.866. Three of them meet in one state with 0.9025, 1, 0; the fourth is alone.
    places = torch.tensor([[0.9025], [1.0], [0.0], [7.0]])
    steps = within_states(places, torch.tensor([[0], [0], [0], [1]]))
    assert_close(steps[:, 0], torch.tensor([0.4867, 0.6635, -1.1502, 0]), atol=1e-4, rtol=0)
    batch = toy_batch([FIRST, FIRST, FIRST, "a"], rewards=[1.0, 1, 0, 0])
    batch = replace(batch, place_rewards=places, segments=torch.where(batch.learnt, 0, -1))
    given = GroupInGroup()(batch)
    assert_close(given[0, 0].item(), 1.3527, atol=2e-4, rtol=0)
    assert_close(given[3, 0].item(), -0.8660, atol=2e-4, rtol=0)
    assert_close(GroupInGroup(omega=0.0)(batch)[:, 0], GroupRelative(epsilon=1e-6)(batch))


def test_a_state_is_what_was_listed_before_in_any_order():
    third = ["[ITEM_1]\n[ITEM_2]\n[ITEM_3]", "[ITEM_2]\n[ITEM_1]\n[ITEM_3]", "[ITEM_3]", FIRST]
    states = states_of(toy_batch(third, group_of=[0, 0, 0, 1]), 3)
    first, second = states[0], states[1]
    assert first[0] == second[0] == states[2, 0]
    assert first[1] != second[1]
    assert first[2] == second[2]
    assert states[2].tolist()[1:] == [-1, -1]
    # Another group is another state.
    assert states[3, 0] != first[0]


def test_probabilities_make_the_deviation_exact():
    # 1 with a share of 0.2 among the first two: 0.8 / 0.4 and -0.2 / 0.4.
    places, states = torch.tensor([[1.0], [0], [0]]), torch.tensor([[0], [0], [1]])
    given = within_states(places, states, torch.tensor([0.1, 0.4, 0.5]))
    assert_close(given[:, 0], torch.tensor([2.0, -0.5, 0]), atol=1e-4, rtol=0)


def test_equal_rewards_give_exactly_nothing():
    batch = toy_batch([FIRST, SECOND, FIRST], rewards=[0.3, 0.3, 0.3])
    assert not GroupInGroup()(batch).any()


def test_rows_of_several_groups_may_lie_in_any_order():
    batch = toy_batch(
        [FIRST, SECOND, FIRST, SECOND, FIRST], rewards=[1.0, 0, 0.3, 0.2, 0.4], group_of=[0, 0, 0, 1, 1]
    )
    order = torch.tensor([3, 0, 4, 2, 1])
    assert_close(GroupInGroup()(batch.take(order)), GroupInGroup()(batch)[order])


def test_lists_without_places_are_refused():
    batch = replace(toy_batch([FIRST], rewards=[1.0]), place_rewards=None)
    with pytest.raises(ValueError, match="variant=gigpo"):
        GroupInGroup()(batch)


def test_the_variant_sets_what_it_needs():
    result = compose_checked("train", ["variant=gigpo"], CONFIG_DIR)
    assert result.faults == []
    check_config(result.config)
    assert result.config.reward.credit == "log_decay"
