"""Advantages with other baselines than the mean of the group, by hand."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from mllmrec.rl.advantages import GroupRelative
from mllmrec.rl.baselines import AboveGreedy, BestOfGroup, LengthWeighted, Mirror, Shifted, SignalShare
from mllmrec.testing import check_advantage

ONE_HIT = torch.tensor([[1.0, 0, 0, 0]])
# Rewards 1, 0, 0 with these probabilities: mean 0.2.
CHANCES, HIT_OF_THREE = torch.tensor([[0.2, 0.5, 0.3]]), torch.tensor([[1.0, 0, 0]])
ALL = [
    LengthWeighted(),
    SignalShare(),
    BestOfGroup(),
    BestOfGroup(scale=True),
    Mirror(),
    Mirror("logavgexp"),
    Mirror("logavgexp", tau=0.01),
    Shifted(),
]


@pytest.mark.parametrize("estimator", ALL)
def test_each_is_an_advantage(estimator):
    check_advantage(estimator)
    if not isinstance(estimator, BestOfGroup):
        check_advantage(estimator, weighted=True)


@pytest.mark.parametrize("estimator", ALL)
@pytest.mark.parametrize("group", [1, 3, 8])
def test_equal_rewards_give_the_shift_and_nothing_else(in_table, estimator, group):
    # The mean of 8 times 0.3 is not 0.3 in single precision.
    rewards = torch.stack([torch.full((group,), 0.3), torch.full((group,), 0.7), torch.arange(group) * 1.0])
    given = in_table(estimator, rewards)[:2]
    assert (given == (0.1 if isinstance(estimator, Shifted) else 0.0)).all()


@pytest.mark.parametrize("estimator", ALL)
def test_rows_of_several_groups_may_lie_in_any_order(make_batch, estimator):
    batch = make_batch(torch.tensor([1.0, 0.3, 0, 0.5, 0.5, 0.2, 0.9]), group_of=[0, 0, 0, 1, 1, 1, 1])
    order = torch.tensor([3, 6, 0, 5, 1, 4, 2])
    assert_close(estimator(batch.take(order)), estimator(batch)[order])


def with_lengths(make_batch, rewards, lengths, weights=None):
    learnt = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return make_batch(rewards, weights, learnt=learnt)


def test_opo_weighs_rewards_with_lengths(make_batch):
    # The hit has 10 of 100 tokens: baseline 0.1.
    given = LengthWeighted()(with_lengths(make_batch, ONE_HIT, [10, 20, 30, 40]))
    assert_close(given, torch.tensor([0.9, -0.1, -0.1, -0.1]))


def test_opo_weighs_probabilities_with_lengths(make_batch):
    # 0.2 · 1 of 0.2 · 1 + 0.5 · 2 + 0.3 · 1 tokens: 0.2 / 1.5.
    given = LengthWeighted()(with_lengths(make_batch, HIT_OF_THREE, [1, 2, 1], CHANCES))
    assert_close(given, torch.tensor([1 - 0.4 / 3, -0.4 / 3, -0.4 / 3]))


def test_opo_takes_the_plain_mean_of_rows_without_tokens(make_batch):
    given = LengthWeighted()(make_batch(ONE_HIT, learnt=torch.zeros(4, 2, dtype=torch.bool)))
    assert_close(given, torch.tensor([0.75, -0.25, -0.25, -0.25]))


def test_gpg_raises_what_has_a_signal(in_table):
    # Four of eight rows have one: twice 0.75 and -0.25.
    rewards = torch.cat([ONE_HIT, torch.ones(1, 4)])
    assert_close(in_table(SignalShare(), rewards), torch.tensor([[1.5, -0.5, -0.5, -0.5], [0, 0, 0, 0]]))
    # The middle one of 1, 0.5, 0 lies on the mean: 3 / 2 of 0.5, 0, -0.5.
    assert_close(in_table(SignalShare(), torch.tensor([[1.0, 0.5, 0]])), torch.tensor([[0.75, 0, -0.75]]))


def test_gpg_counts_probabilities(in_table):
    # Two prompts with a weight of 1 each; the first has a signal.
    rewards, chances = torch.cat([HIT_OF_THREE, torch.zeros(1, 3)]), CHANCES.repeat(2, 1)
    expected = torch.tensor([[1.6, -0.4, -0.4], [0, 0, 0]])
    assert_close(in_table(SignalShare(), rewards, chances), expected)


def test_passk_pays_the_lead_of_the_best(in_table):
    rewards = torch.tensor([[1.0, 0.6, 0.2, 0]])
    assert_close(in_table(BestOfGroup(), rewards), torch.tensor([[0.4, 0, 0, 0]]))
    # Deviations of 0.55, 0.15, -0.25, -0.45 from the mean 0.45: variance 0.59 / 3, deviation 0.443471.
    scaled = in_table(BestOfGroup(scale=True), rewards)
    assert_close(scaled, torch.tensor([[0.901978, 0, 0, 0]]), atol=1e-5, rtol=0)


def test_passk_pays_nobody_where_two_are_best(in_table):
    assert in_table(BestOfGroup(), torch.tensor([[1.0, 0, 1, 0]])).tolist() == [[0.0, 0.0, 0.0, 0.0]]


def test_passk_needs_draws(in_table):
    with pytest.raises(ValueError, match="choose another rollout"):
        in_table(BestOfGroup(), HIT_OF_THREE, CHANCES)


def test_opmd_subtracts_the_mean_of_exponentials(in_table):
    # log((e + 3) / 4) = 0.357374.
    expected = torch.tensor([[0.642626, -0.357374, -0.357374, -0.357374]])
    assert_close(in_table(Mirror("logavgexp"), ONE_HIT), expected, atol=1e-6, rtol=0)
    assert_close(in_table(Mirror("mean"), ONE_HIT), torch.tensor([[0.75, -0.25, -0.25, -0.25]]))


def test_opmd_lies_between_the_mean_and_the_largest(in_table):
    # A tau near zero: log(1/4) · 0.001 below the largest reward. A great one: the mean, 1/4.
    assert_close(in_table(Mirror("logavgexp", 1e-3), ONE_HIT)[0, 0].item(), 0.001386, atol=1e-6, rtol=0)
    assert_close(in_table(Mirror("logavgexp", 1e3), ONE_HIT)[0, 0].item(), 0.75, atol=1e-3, rtol=0)


def test_opmd_takes_the_policys_own_mean(in_table):
    # log(0.2 e + 0.8) = 0.295395.
    expected = torch.tensor([[0.704605, -0.295395, -0.295395]])
    assert_close(in_table(Mirror("logavgexp"), HIT_OF_THREE, CHANCES), expected, atol=1e-6, rtol=0)


def test_asymre_shifts_the_baseline(in_table):
    assert_close(in_table(Shifted(), ONE_HIT), torch.tensor([[0.85, -0.15, -0.15, -0.15]]))
    assert_close(in_table(Shifted(), HIT_OF_THREE, CHANCES), torch.tensor([[0.9, -0.1, -0.1]]))
    assert_close(in_table(Shifted(0.0), ONE_HIT), in_table(GroupRelative("none"), ONE_HIT))


def test_remax_compares_with_the_greedy_completion(make_batch):
    greedy = torch.tensor([1.0, 1, 1, 0, 0, 0])
    batch = make_batch(torch.tensor([[1.0, 0, 0.3], [1, 0, 0.3]]), greedy=greedy)
    part = AboveGreedy()
    assert_close(part(batch), torch.tensor([0, -1, -0.7, 1, 0, 0.3]))
    assert part.metrics() == {"remax/greedy_reward": 0.5}
    check_advantage(part)
    check_advantage(part, weighted=True)


def test_unknown_settings_are_refused():
    with pytest.raises(ValueError, match="mean, logavgexp"):
        Mirror("median")
    with pytest.raises(ValueError, match="above 0"):
        Mirror("logavgexp", tau=0.0)
