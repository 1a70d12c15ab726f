"""TEMPO: tokens at which answers part get credit, by hand."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from mllmrec.engine.batches import pad
from mllmrec.testing import check_advantage
from mllmrec.variants.tempo import PrefixTree

A, B, C, D, E, F, W, X, Y, Z = range(10, 20)


@pytest.mark.parametrize("scale", [True, False])
def test_it_is_an_advantage(scale):
    check_advantage(PrefixTree(scale))
    check_advantage(PrefixTree(scale), weighted=True)


def said(make_batch, rewards, rows, weights=None, **fields):
    completions = pad(rows, 0, side="right")
    fields = {"learnt": completions.mask, **fields}
    return make_batch(torch.tensor([rewards]), weights, completions=completions, **fields)


def test_branches_get_the_change_of_the_mean(make_batch):
    batch = said(make_batch, [1.0, 0, 0, 0], [[A, B, X], [A, C, Y], [D, E, Z], [D, F, W]])
    # V is 1/4 at the root, 1/2 and 0 after the first token, 1, 0, 0, 0 after the second; the deviation is 1/2.
    expected = torch.tensor([[2, 2.5, 1.5], [0, -1.5, -0.5], [-1, -0.5, -0.5], [-1, -0.5, -0.5]])
    assert_close(PrefixTree()(batch), expected, atol=1e-5, rtol=0)
    assert_close(PrefixTree(scale=False)(batch), expected / 2)


def test_an_end_is_a_branch_too(make_batch):
    # One answer stops where the other goes on; padding is no token.
    batch = said(make_batch, [1.0, 0.0], [[A], [A, B]])
    assert_close(PrefixTree(scale=False)(batch), torch.tensor([[0.5, 0], [-0.5, -1]]))


def test_groups_do_not_share_prefixes(make_batch):
    rows = [[A, B], [A, C], [A, B], [A, C]]
    completions = pad(rows, 0, side="right")
    batch = make_batch(torch.tensor([[1.0, 0], [0, 0]]), completions=completions, learnt=completions.mask)
    given = PrefixTree(scale=False)(batch)
    assert_close(given, torch.tensor([[0.5, 1], [-0.5, -1], [0, 0], [0, 0]]))


def test_forced_tokens_get_nothing(make_batch):
    learnt = torch.tensor([[False, True], [False, True]])
    batch = said(make_batch, [1.0, 0.0], [[A, B], [A, C]], learnt=learnt)
    assert_close(PrefixTree(scale=False)(batch), torch.tensor([[0, 1.0], [0, -1]]))


def test_probabilities_make_the_values_exact(make_batch):
    # The hit has 0.2 of all, and 0.4 of what begins with A.
    chances = torch.tensor([[0.2, 0.3, 0.5]])
    batch = said(make_batch, [1.0, 0, 0], [[A, B], [A, C], [D, E]], chances)
    expected = torch.tensor([[0.8 + 0.2, 0.8 + 0.6], [-0.2 + 0.2, -0.2 - 0.4], [-0.2 - 0.2, -0.2]])
    assert_close(PrefixTree(scale=False)(batch), expected)


@pytest.mark.parametrize("group", [1, 8])
def test_equal_rewards_give_exactly_nothing(make_batch, group):
    batch = said(make_batch, [0.3] * group, [[A, 20 + place] for place in range(group)])
    assert not PrefixTree()(batch).any()


def test_rows_of_several_groups_may_lie_in_any_order(make_batch):
    completions = pad([[A, B], [A, C], [D], [A, B], [A, B], [A, C], [D, E]], 0, side="right")
    batch = make_batch(
        torch.tensor([1.0, 0.3, 0, 0.5, 0.4, 0.2, 0.9]),
        group_of=[0, 0, 0, 1, 1, 1, 1],
        completions=completions,
        learnt=completions.mask,
    )
    order = torch.tensor([3, 6, 0, 5, 1, 4, 2])
    assert_close(PrefixTree()(batch.take(order)), PrefixTree()(batch)[order])
