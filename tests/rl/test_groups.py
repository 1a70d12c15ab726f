"""Statistics of groups that differ in size or whose rows are mixed, against the same rows in a table."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from mllmrec.rl.advantages import GroupRelative, LeaveOneOut, group_relative
from mllmrec.rl.groups import Groups

# Rows of group 0 say 2 and 4, those of group 1 say 1, 4 and 7.
MIXED = Groups(torch.tensor([1, 0, 0, 1, 1]))
VALUES = torch.tensor([1.0, 2.0, 4.0, 4.0, 7.0])


def test_groups_of_two_and_three_by_hand():
    assert (MIXED.count, MIXED.sizes.tolist(), MIXED.size) == (2, [2, 3], None)
    assert MIXED.mean(VALUES).tolist() == [3.0, 4.0]
    # (1 + 1) / 1 and (9 + 0 + 9) / 2
    assert_close(MIXED.std(VALUES), torch.tensor([2**0.5, 3.0]))
    assert MIXED.centred(VALUES).tolist() == [-3.0, -1.0, 1.0, 0.0, 3.0]
    assert (MIXED.most(VALUES).tolist(), MIXED.least(VALUES).tolist()) == ([4.0, 7.0], [2.0, 1.0])
    assert MIXED.rows(torch.tensor([10, 11])).tolist() == [11, 10, 10, 11, 11]
    assert MIXED.any(VALUES > 4).tolist() == [False, True]


def test_weights_of_two_and_three_by_hand():
    groups = Groups(MIXED.group_of, torch.tensor([0.5, 0.25, 0.75, 0.0, 0.5]))
    # 2 / 4 + 3 = 3.5, and (1 + 7) / 2 = 4; variances 0.25 · 2.25 + 0.75 · 0.25 = 0.75, and 9.
    assert groups.mean(VALUES).tolist() == [3.5, 4.0]
    assert_close(groups.std(VALUES), torch.tensor([0.75**0.5, 3.0]))


def test_advantages_of_two_and_three_by_hand(make_batch):
    batch = make_batch(VALUES, group_of=MIXED.group_of.tolist())
    # 1 - 5.5, 2 - 4, 4 - 2, 4 - 4, 7 - 2.5
    assert_close(LeaveOneOut()(batch), torch.tensor([-4.5, -2.0, 2.0, 0.0, 4.5]))
    root = 0.5**0.5
    assert_close(GroupRelative(epsilon=0.0)(batch), torch.tensor([-1.0, -root, root, 0.0, 1.0]))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("columns", [(), (3,)])
def test_mixed_rows_have_the_statistics_of_the_table(weighted, columns):
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(12, *columns, generator=generator)
    values[4:8] = 0.3  # a group without variance
    weights = torch.rand(12, generator=generator) if weighted else None
    even, order = torch.arange(3).repeat_interleave(4), torch.randperm(12, generator=generator)
    table = Groups(even, weights)
    mixed = Groups(even[order], None if weights is None else weights[order])
    assert (table.size, mixed.size) == (4, None)
    for name in ("mean", "std", "most", "least"):
        assert_close(getattr(mixed, name)(values[order]), getattr(table, name)(values))
    equal = table.all_equal(values)
    assert torch.equal(mixed.all_equal(values[order]), equal)
    assert equal.view(3, -1).any(1).tolist() == [False, True, False]
    assert_close(mixed.centred(values[order]), table.centred(values)[order])
    assert (mixed.centred(values[order])[even[order] == 1] == 0).all()


@pytest.mark.parametrize("scale", ["group", "none"])
@pytest.mark.parametrize("weighted", [False, True])
def test_a_group_counts_by_itself_whatever_the_others_sizes(scale, weighted):
    sizes, generator = [7, 1, 2, 5], torch.Generator().manual_seed(1)
    values, weights = torch.randn(15, generator=generator) - 5, torch.rand(15, generator=generator)
    ragged = Groups(torch.arange(4).repeat_interleave(torch.tensor(sizes)), weights if weighted else None)
    found = group_relative(values, ragged, scale).split(sizes)
    parts = zip(found, values.split(sizes), weights.split(sizes), strict=True)
    for own, alone, its_weights in parts:
        group = Groups(torch.zeros(len(alone), dtype=torch.long), its_weights if weighted else None)
        assert_close(own, group_relative(alone, group, scale))


@pytest.mark.parametrize("estimator", [GroupRelative(), GroupRelative("batch"), LeaveOneOut()])
def test_equal_rewards_of_ragged_groups_give_exactly_nothing(estimator, make_batch):
    # Padding must not count, and 0.3 has no exact mean; the third group keeps the batch's deviation above 0.
    rewards = torch.tensor([-1.0] * 3 + [0.3] * 7 + [0.0, 1.0] + [5.0])
    batch = make_batch(rewards, group_of=[0] * 3 + [1] * 7 + [2] * 2 + [3])
    assert batch.groups.all_equal(rewards).tolist() == [True, True, False, True]
    assert ((estimator(batch) != 0).nonzero()[:, 0]).tolist() == [10, 11]


def test_a_group_of_one_among_others_has_no_deviation():
    groups = Groups(torch.tensor([0, 1, 1]))
    assert groups.std(torch.tensor([3.0, 1.0, 5.0])).tolist() == pytest.approx([0.0, 8**0.5])
