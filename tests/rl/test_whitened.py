"""REINFORCE++: advantages whitened over the tokens of a step, by hand."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from mllmrec.rl.whitened import WhitenedBaseline, WhitenedReturns, at_last, returns, whitened
from mllmrec.testing import check_advantage

TWO_GROUPS = torch.tensor([[1.0, 0, 0, 0], [1, 1, 0, 0]])
YES, NO = True, False


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(
    "estimator", [WhitenedReturns(), WhitenedReturns(gamma=0.5, beta=0.1), WhitenedBaseline()]
)
def test_each_is_an_advantage(estimator, weighted):
    check_advantage(estimator, weighted=weighted)


def one_token(make_batch, rewards, weights=None):
    return make_batch(rewards, weights, learnt=torch.tensor([[NO, YES]]).expand(rewards.numel(), 2))


def test_the_baseline_of_one_token_each(make_batch):
    # 0.75, three times -0.25, twice 0.5 and -0.5: squares sum to 1.75, of 7 is 1/4, deviation 1/2.
    given = WhitenedBaseline()(one_token(make_batch, TWO_GROUPS))
    assert_close(given, torch.tensor([1.5, -0.5, -0.5, -0.5, 1, 1, -1, -1]))


def test_long_rows_count_more(make_batch):
    # Centred 0.5 with one token and -0.5 with three: mean -0.25, squares 0.5625 + 3 · 0.0625 = 0.75, of 3 is 1/4.
    learnt = torch.tensor([[YES, NO, NO], [YES, YES, YES], [NO, NO, NO]])
    batch = make_batch(torch.tensor([1.0, 0, 0.5]), group_of=[0, 0, 1], learnt=learnt)
    assert_close(WhitenedBaseline()(batch), torch.tensor([1.5, -0.5, 0.0]))


def test_weights_make_the_deviation_exact(make_batch):
    # 0.8 with probability 0.2, else -0.2: deviation 0.4.
    rewards, chances = torch.tensor([[1.0, 0, 0]]), torch.tensor([[0.2, 0.5, 0.3]])
    expected = torch.tensor([2.0, -0.5, -0.5])
    assert_close(WhitenedBaseline()(one_token(make_batch, rewards, chances)), expected)
    assert_close(WhitenedReturns()(one_token(make_batch, rewards, chances))[:, 1], expected)


def test_returns_compare_with_the_step_and_not_with_the_group(make_batch):
    # Three ones of eight: deviation 0.517549 from the mean 0.375.
    given = WhitenedReturns()(one_token(make_batch, TWO_GROUPS))
    assert (given[:, 0] == 0).all()
    hit, miss = 0.625 / 0.517549, -0.375 / 0.517549
    assert_close(given[:, 1], torch.tensor([hit, miss, miss, miss, hit, hit, miss, miss]), atol=1e-5, rtol=0)


def test_a_token_earns_what_comes_after_it():
    # The reward 8 stands at the last token that counts; the one in between is no step.
    learnt = torch.tensor([[YES, NO, YES, YES, NO]])
    earned = at_last(torch.tensor([8.0]), learnt)
    assert earned.tolist() == [[0, 0, 0, 8, 0]]
    assert returns(earned, learnt, 0.5).tolist() == [[2, 0, 4, 8, 0]]
    paid = earned - torch.tensor([[1.0, 0, 1, 1, 0]])
    assert returns(paid, learnt, 1.0).tolist() == [[5, 0, 6, 7, 0]]


def test_each_token_pays_its_kl(make_batch):
    # l_old - l_reference is 0.4 and 0.2, of which beta takes half; the other row pays nothing: returns 0.7, 0.9 and 0, 0.
    old, reference = torch.tensor([[-1.0, -1], [-1, -1]]), torch.tensor([[-1.4, -1.2], [-1, -1]])
    batch = make_batch(torch.tensor([[1.0, 0.0]]), old=old, reference=reference)
    part = WhitenedReturns(beta=0.5)
    assert part.needs == {"old", "reference"}
    assert WhitenedReturns().needs == frozenset()
    expected = torch.tensor([[0.7, 0.9], [0, 0]]) - 0.4
    assert_close(part(batch), expected / expected.std())


@pytest.mark.parametrize("estimator", [WhitenedReturns(), WhitenedBaseline()])
def test_a_step_without_a_difference_gives_exactly_nothing(make_batch, estimator):
    # Rounding divided by the root of 1e-8 would be a signal.
    batch = make_batch(torch.full((2, 8), 0.3))
    assert not estimator(batch).any()
    assert not estimator(make_batch(torch.tensor([[5.0], [5.0]]))).any()


@pytest.mark.parametrize("estimator", [WhitenedReturns(), WhitenedBaseline()])
def test_a_step_without_tokens_gives_nothing(make_batch, estimator):
    assert not estimator(make_batch(TWO_GROUPS, learnt=torch.zeros(8, 2, dtype=torch.bool))).any()


@pytest.mark.parametrize("estimator", [WhitenedReturns(gamma=0.9), WhitenedBaseline()])
def test_rows_of_several_groups_may_lie_in_any_order(make_batch, estimator):
    batch = make_batch(torch.tensor([1.0, 0.3, 0, 0.5, 0.5, 0.2, 0.9]), group_of=[0, 0, 0, 1, 1, 1, 1])
    order = torch.tensor([3, 6, 0, 5, 1, 4, 2])
    assert_close(estimator(batch.take(order)), estimator(batch)[order])


def test_tokens_that_do_not_count_change_nothing():
    values, learnt = torch.tensor([[1.0, 9.0], [3.0, -9.0]]), torch.tensor([[YES, NO], [YES, NO]])
    # 1 and 3: mean 2, deviation 1.414214.
    assert_close(whitened(values, learnt), torch.tensor([[-0.707107, 0], [0.707107, 0]]))


def test_gamma_is_checked():
    with pytest.raises(ValueError, match="between 0 and 1"):
        WhitenedReturns(gamma=1.5)
