"""Stratified GRPO: answers are compared with those of the same structure, by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from mllmrec.rl.advantages import GroupRelative
from mllmrec.rl.groups import Groups
from mllmrec.testing import check_advantage, toy_batch
from mllmrec.variants.stratified_grpo import Stratified, strata_of, stratified

REWARDS, STRATA = torch.tensor([1.0, 1, 0, 0, 0, 0]), torch.tensor([0, 0, 0, 1, 1, 1])
ONE = Groups(torch.zeros(6, dtype=torch.long))


@pytest.mark.parametrize("by", ["items", "reasoning", "source"])
def test_it_is_an_advantage(by):
    check_advantage(Stratified(by))
    check_advantage(Stratified(by), weighted=True)


@pytest.mark.parametrize(
    ("alpha", "expected"),
    [
        # Mean 2/3 and deviation 0.577350 in the first stratum; all equal in the second.
        (1.0, [0.5773, 0.5773, -1.1547, 0, 0, 0]),
        (0.0, [1.2910, 1.2910, -0.6455, -0.6455, -0.6455, -0.6455]),
        (0.5, [0.9342, 0.9342, -0.9001, -0.3227, -0.3227, -0.3227]),
    ],
)
def test_strata_and_the_group_are_mixed(alpha, expected):
    given = stratified(REWARDS, ONE, STRATA, alpha)
    assert_close(given, torch.tensor(expected), atol=6e-5, rtol=0)


def test_a_row_alone_in_its_stratum_has_nothing_to_compare_with():
    given = stratified(REWARDS, ONE, torch.tensor([7, 0, 0, 0, 0, 0]), 1.0)
    assert given[0] == 0
    assert given[1] > 0


def test_strata_do_not_reach_into_other_groups():
    groups = Groups(torch.tensor([0, 0, 0, 1, 1, 1]))
    given = stratified(REWARDS, groups, torch.zeros(6, dtype=torch.long), 1.0)
    assert_close(given, torch.tensor([0.57735, 0.57735, -1.154701, 0, 0, 0]), atol=1e-5, rtol=0)


def test_weights_make_the_strata_exact():
    # Chances 0.1 and 0.4 are 0.2 and 0.8 of their stratum: mean 0.2, deviation 0.4.
    groups = Groups(torch.zeros(3, dtype=torch.long), torch.tensor([0.1, 0.4, 0.5]))
    given = stratified(torch.tensor([1.0, 0, 0]), groups, torch.tensor([0, 0, 1]), 1.0)
    assert_close(given, torch.tensor([2.0, -0.5, 0]), atol=1e-4, rtol=0)


def test_one_stratum_is_grpo():
    batch = toy_batch(["a", "b", "c"], rewards=[1.0, 0.0, 0.3])
    assert_close(Stratified("items", epsilon=1e-4)(batch), GroupRelative()(batch))


def test_strata_by_what_an_answer_is():
    batch = toy_batch(["[ITEM_1]", "a", "[ITEM_1]\n[ITEM_2]", "<think>\nred\n</think>\n[ITEM_2]"])
    assert strata_of(batch, "items").tolist() == [1, 0, 2, 1]
    assert strata_of(batch, "reasoning").tolist() == [0, 0, 0, 1]
    assert strata_of(batch, "source").tolist() == [0, 0, 0, 0]
    hinted = replace(batch, sources=("policy", "hinted", "policy", "hinted"))
    assert strata_of(hinted, "source").tolist() == [1, 0, 1, 0]


def test_unknown_settings_are_refused():
    with pytest.raises(ValueError, match="items, reasoning, source"):
        Stratified("reward")
    with pytest.raises(ValueError, match="between 0 and 1"):
        Stratified(alpha=1.5)
