"""Tokens whose policy loss is left out, by hand."""

from __future__ import annotations

import torch

from mllmrec.rl.left_out import most_uncertain, near_enough
from mllmrec.rl.losses import LossInputs

MASK = torch.tensor([[True, True], [True, True], [True, False]])


def inputs_of(entropy, falls=((0.0, 0.0),) * 3, advantages=(1.0, -1.0, -1.0)) -> LossInputs:
    """The first two answers are a group, the third is another; tokens became less likely by ``falls`` nats."""
    return LossInputs(
        -1.0 - torch.tensor(falls),
        torch.full((3, 2), -1.0),
        torch.tensor(advantages)[:, None],
        MASK,
        torch.tensor(entropy),
        group_of=torch.tensor([0, 0, 1]),
    )


def test_each_group_keeps_its_most_uncertain_tokens():
    # Of 0.1, 0.2, 0.3, 0.4 the upper half is from 0.25 on; the other group's one token is its own quantile.
    given = inputs_of([[0.1, 0.4], [0.3, 0.2], [0.05, 9.0]])
    assert most_uncertain(given, 0.5).tolist() == [[False, True], [True, False], [True, False]]
    assert torch.equal(most_uncertain(given, 1.0), MASK)


def test_bad_answers_that_fell_too_far_are_left_out():
    # Means of the fall: 0.5 where A > 0, 0.2 and 0.3 where A < 0; the last token of the third answer does not count.
    given = inputs_of([[0.0, 0.0]] * 3, [[0.5, 0.5], [0.5, -0.1], [0.3, 9.0]])
    assert near_enough(given, 0.25)[:, 0].tolist() == [True, True, False]
    assert near_enough(given, 0.3001).all()
    # Tokens of one answer may differ in their advantages.
    mixed = LossInputs(given.logprobs, given.old, torch.tensor([[1.0, -1.0]] * 3), MASK, given.entropy)
    assert near_enough(mixed, 0.25).tolist() == [[True, False], [True, True], [True, False]]


def test_equal_tokens_at_the_limit_all_stay_in_double_precision():
    # Two answers with the same entropy, which is no number of single precision: the limit is that entropy.
    same = torch.full((3, 2), 0.1, dtype=torch.float64)
    given = inputs_of(same.tolist())
    given = LossInputs(
        given.logprobs, given.old, given.advantages, MASK, same, group_of=torch.tensor([0, 0, 1])
    )
    assert torch.equal(most_uncertain(given, 0.5), MASK)
