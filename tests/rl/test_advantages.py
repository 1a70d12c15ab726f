from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from mllmrec.rl.advantages import GroupRelative, LeaveOneOut

ONE_HIT = torch.tensor([[1.0, 0, 0, 0]])
TWO_GROUPS = torch.tensor([[1.0, 0, 0, 0], [1, 1, 0, 0]])


def test_grpo_divides_by_the_groups_deviation(in_table):
    # Mean 1/4; variance (9/16 + 3 · 1/16) / 3 = 1/4, std 1/2: 0.75 / 0.5001 and -0.25 / 0.5001.
    assert_close(
        in_table(GroupRelative(), ONE_HIT),
        torch.tensor([[1.4997, -0.4999, -0.4999, -0.4999]]),
        atol=5e-5,
        rtol=0,
    )


def test_the_divisor_may_be_the_size_of_the_group(in_table):
    # Variance (9/16 + 3 · 1/16) / 4 = 3/16, std 0.433013: 0.75 / 0.433013 = 1.732051.
    given = in_table(GroupRelative(epsilon=0.0, unbiased=False), ONE_HIT)
    assert_close(given, torch.tensor([[1.732051, -0.577350, -0.577350, -0.577350]]), atol=1e-6, rtol=0)
    # Groups of different sizes are a padded table; a group of one has a deviation of 0.
    assert_close(in_table(GroupRelative(unbiased=False), torch.tensor([[5.0], [1.0]])), torch.zeros(2, 1))


def test_both_divisors_are_exact_where_groups_differ_in_size(make_batch):
    batch = make_batch(torch.tensor([1.0, 0, 0, 0, 1, 0, 3]), group_of=[0, 0, 0, 0, 1, 1, 2])
    # 1 and 0: deviation 0.5 with the divisor 2, and 0.707107 with the divisor 1.
    assert_close(batch.groups.std(batch.judged(), unbiased=False), torch.tensor([0.433013, 0.5, 0.0]))
    assert_close(batch.groups.std(batch.judged()), torch.tensor([0.5, 0.707107, 0.0]))


def test_dr_grpo_does_not_divide(in_table):
    assert_close(in_table(GroupRelative("none"), ONE_HIT), torch.tensor([[0.75, -0.25, -0.25, -0.25]]))


def test_rloo_compares_with_the_others(in_table):
    # 1 - 0 for the hit; 0 - 1/3 for each miss.
    assert_close(in_table(LeaveOneOut(), ONE_HIT), torch.tensor([[1, -1 / 3, -1 / 3, -1 / 3]]))


def test_batch_deviation_is_that_of_all_rewards(in_table):
    # Eight rewards, three of them 1: variance 8 · (3/8)(5/8) / 7 = 0.267857, std 0.517549.
    # 0.75 / 0.517549 = 1.449138; with the epsilon of 1e-4, 1.448858.
    expected = [
        [1.448858, -0.482953, -0.482953, -0.482953],
        [0.965905, 0.965905, -0.965905, -0.965905],
    ]
    assert_close(in_table(GroupRelative("batch"), TWO_GROUPS), torch.tensor(expected), atol=2e-6, rtol=0)


def test_groups_do_not_mix(in_table):
    together = in_table(GroupRelative(), TWO_GROUPS)
    assert_close(together, torch.cat([in_table(GroupRelative(), group[None]) for group in TWO_GROUPS]))


@pytest.mark.parametrize(
    "estimator", [GroupRelative(), GroupRelative("none"), GroupRelative("batch"), LeaveOneOut()]
)
@pytest.mark.parametrize("group", [1, 2, 3, 6, 7, 8, 16])
def test_equal_rewards_give_exactly_nothing(in_table, estimator, group):
    # The mean of 8 times 0.3 is not 0.3 in single precision; the second group keeps the batch's deviation above 0.
    rewards = torch.stack([torch.full((group,), 0.3), torch.full((group,), 0.7), torch.arange(group) * 1.0])
    assert (in_table(estimator, rewards)[:2] == 0).all()


def test_a_group_of_one_has_nothing_to_compare_with(in_table):
    for estimator in (GroupRelative(), LeaveOneOut()):
        assert in_table(estimator, torch.tensor([[5.0], [1.0]])).tolist() == [[0.0], [0.0]]


def test_the_released_offset_of_0_3_cancels(in_table):
    # Fault 18: with all outputs well formed, only hit or miss matters.
    released = torch.tensor([[1.0, 0.3, 0.3, 0.3]])
    assert_close(in_table(GroupRelative(), released), in_table(GroupRelative(), ONE_HIT), atol=2e-4, rtol=0)


def test_zero_variance_groups_are_found(of_groups):
    rewards = torch.tensor([[0.3, 0.3, 0.3], [1, 1, 0.3], [-1, -1, -1]])
    assert of_groups("all_equal", rewards).tolist() == [True, False, True]


def test_small_differences_are_signal_and_rounding_is_none(in_table, of_groups):
    # Rewards may lie close together: a group must learn from a difference of a thousandth, or of ten millionths.
    rewards = torch.tensor([[0.5, 0.501, 0.5], [0.5, 0.50001, 0.5], [0.5, 0.5 + 5e-7, 0.5]])
    assert of_groups("all_equal", rewards).tolist() == [False, False, True]
    assert (in_table(GroupRelative(), rewards) != 0).any(1).tolist() == [True, True, False]
    assert of_groups("all_equal", torch.tensor([[0.5, 0.5]]), tolerance=0.0).tolist() == [True]


def test_two_rewards_have_a_deviation(of_groups):
    # 1 and 0: mean 0.5, variance (0.25 + 0.25) / 1, deviation 0.707107.
    assert_close(of_groups("std", torch.tensor([[1.0, 0.0]])), torch.tensor([0.707107]), atol=1e-6, rtol=0)
    assert of_groups("std", torch.tensor([[1.0]])).tolist() == [0.0]


def test_weights_need_not_sum_to_one(of_groups):
    weights = torch.tensor([[0.4, 1.0, 0.6]])  # twice those below
    assert_close(of_groups("mean", HIT_OF_THREE, weights), torch.tensor([0.2]))
    assert_close(of_groups("std", HIT_OF_THREE, weights), torch.tensor([0.4]))


# Rewards 1, 0, 0 with these probabilities: mean 0.2, variance 0.2 · 0.8 = 0.16, deviation 0.4.
CHANCES = torch.tensor([[0.2, 0.5, 0.3]])
HIT_OF_THREE = torch.tensor([[1.0, 0, 0]])


@pytest.mark.parametrize(
    ("estimator", "expected"),
    [
        (GroupRelative(), [1.9995, -0.499875, -0.499875]),  # 0.8 / 0.4001 and -0.2 / 0.4001
        (GroupRelative("none"), [0.8, -0.2, -0.2]),
        (LeaveOneOut(), [0.8, -0.2, -0.2]),
    ],
)
def test_weights_make_mean_and_deviation_the_policys_own(in_table, estimator, expected):
    assert_close(in_table(estimator, HIT_OF_THREE, CHANCES), torch.tensor([expected]), atol=1e-5, rtol=0)


def test_batch_deviation_under_weights_is_that_of_the_mixture(in_table):
    # The second prompt hits with probability 0.6. For both together: mean 0.4, variance 0.4 · 0.6 = 0.24, deviation 0.489898.
    rewards, chances = HIT_OF_THREE.repeat(2, 1), torch.cat([CHANCES, torch.tensor([[0.6, 0.2, 0.2]])])
    expected = torch.tensor([[0.8, -0.2, -0.2], [0.4, -0.6, -0.6]]) / (0.489898 + 1e-4)
    assert_close(in_table(GroupRelative("batch"), rewards, chances), expected, atol=1e-5, rtol=0)


def test_many_draws_have_the_mean_and_deviation_of_the_weights(of_groups):
    # 2, 5 and 3 of ten draws, a thousand times over: the divisor G - 1 no longer shows.
    draws = torch.tensor([[1.0] * 2 + [0.0] * 5 + [0.0] * 3]).repeat(1, 1000)
    assert_close(of_groups("mean", draws), of_groups("mean", HIT_OF_THREE, CHANCES))
    assert_close(of_groups("std", draws), of_groups("std", HIT_OF_THREE, CHANCES), atol=1e-4, rtol=0)
    # Ten draws alone have sqrt(10 / 9) of it.
    assert_close(of_groups("std", draws[:, :10]), torch.tensor([0.421637]), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    "estimator", [GroupRelative(), GroupRelative("none"), GroupRelative("batch"), LeaveOneOut()]
)
def test_equal_rewards_give_exactly_nothing_under_weights(in_table, estimator):
    # Single precision: weights that sum to almost one, and 0.3 times each.
    rewards = torch.tensor([[0.3, 0.3, 0.3], [1.0, 0.0, 0.0]])
    assert (in_table(estimator, rewards, torch.tensor([[0.7, 0.2, 0.1], [0.2, 0.5, 0.3]]))[0] == 0).all()


def test_unknown_scale_names_the_choices():
    with pytest.raises(ValueError, match="group, batch, none"):
        GroupRelative("std")
