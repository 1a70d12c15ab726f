from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.testing import assert_close

from mllmrec.rl.losses import AGGREGATIONS, OF_THE_STEP, ClippedRatio, LossInputs, LossOutputs, aggregate

LOW, HIGH = "clip_ratio/low_mean", "clip_ratio/high_mean"


def applied(loss, logprobs, old, advantages, mask) -> LossOutputs:
    """(r, T) log-probabilities and (r,) advantages through a loss."""
    return loss(LossInputs(logprobs, old, advantages[:, None], mask, entropy=torch.zeros_like(old)))


def loss_of(loss: ClippedRatio, ratios: list[float], advantage: float):
    """One sequence with these token ratios."""
    old = torch.full((1, len(ratios)), -1.0)
    logprobs = old + torch.tensor([ratios]).log()
    return applied(
        loss, logprobs, old, torch.tensor([advantage]), torch.ones(1, len(ratios), dtype=torch.bool)
    )


# Loss = -min(ratio · A, clipped ratio · A); columns: ratio 0.7, 1.25, 1.35.
@pytest.mark.parametrize(
    ("high", "advantage", "terms"),
    [
        (0.2, 1.0, [-0.7, -1.2, -1.2]),
        (0.28, 1.0, [-0.7, -1.25, -1.28]),
        (0.2, -1.0, [0.8, 1.25, 1.35]),
        (0.28, -1.0, [0.8, 1.25, 1.35]),
    ],
)
def test_clip(high, advantage, terms):
    result = loss_of(ClippedRatio(0.2, high), [0.7, 1.25, 1.35], advantage)
    assert_close(result.terms, torch.tensor([terms]))


def test_clip_counts_only_where_the_clip_holds_the_gradient():
    ratios = [0.7, 1.0, 1.25, 1.35]
    up, down = (loss_of(ClippedRatio(0.2, 0.28), ratios, advantage) for advantage in (1.0, -1.0))
    assert up.metrics[LOW].tolist() == [[False, False, False, False]]
    assert up.metrics[HIGH].tolist() == [[False, False, False, True]]
    assert down.metrics[LOW].tolist() == [[True, False, False, False]]
    assert down.metrics[HIGH].tolist() == [[False, False, False, False]]


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_masked_tokens_neither_count_nor_clip(level):
    old = torch.zeros(1, 3)
    logprobs = torch.tensor([[0.1, 0.1, 50.0]])
    mask = torch.tensor([[True, True, False]])
    result = applied(ClippedRatio(level=level), logprobs, old, torch.tensor([1.0]), mask)
    assert_close(result.terms[:, :2], -torch.tensor([[0.1, 0.1]]).exp())
    assert not result.metrics[HIGH][0, 2]


@pytest.mark.parametrize("advantage", [1.0, -1.0])
def test_masked_tokens_of_a_clipped_sequence_do_not_count_as_clipped(advantage):
    # The sequence's ratio is exp(0.5 A), beyond the clip on the side that holds; the third token is masked.
    logprobs = torch.tensor([[0.5, 0.5, 0.0]]) * advantage
    mask = torch.tensor([[True, True, False]])
    result = applied(
        ClippedRatio(level="sequence"), logprobs, torch.zeros(1, 3), torch.tensor([advantage]), mask
    )
    high, low = (mask, torch.zeros_like(mask))[:: 1 if advantage > 0 else -1]
    assert torch.equal(result.metrics[HIGH], high)
    assert torch.equal(result.metrics[LOW], low)


def test_without_an_advantage_nothing_is_clipped():
    result = loss_of(ClippedRatio(), [0.5, 1.0, 2.0], 0.0)
    assert not result.metrics[LOW].any()
    assert not result.metrics[HIGH].any()


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_a_row_without_tokens_gives_nothing(level):
    logprobs = torch.tensor([[-0.1, -0.2], [-0.3, -0.4]])
    mask = torch.tensor([[True, True], [False, False]])
    terms = applied(ClippedRatio(level=level), logprobs, logprobs - 0.1, torch.ones(2), mask).terms
    assert terms.isfinite().all()
    for how in AGGREGATIONS:
        counts: dict[str, Any] = {"tokens": 2, "sequences": 1, "max_length": 2}
        both = aggregate(terms, mask, how, **counts)
        assert_close(both, aggregate(terms[:1], mask[:1], how, **counts))


@pytest.mark.parametrize("advantage", [2.0, -0.5])
def test_clipped_tokens_have_no_gradient_and_others_that_of_the_ratio(advantage):
    ratios = torch.tensor([[0.7, 1.1, 1.35]])
    logprobs = ratios.log().requires_grad_()
    result = applied(
        ClippedRatio(),
        logprobs,
        torch.zeros(1, 3),
        torch.tensor([advantage]),
        torch.ones(1, 3, dtype=torch.bool),
    )
    result.terms.sum().backward()
    held = result.metrics[LOW] | result.metrics[HIGH]
    assert held.any()
    # d(-ratio A) / d log pi = -ratio A
    assert_close(logprobs.grad, torch.where(held, 0.0, -ratios * advantage))


def test_gspo_ratio_is_the_geometric_mean():
    # 1.1 · 0.9 · 1.2 · 1.0 = 1.188, fourth root 1.044009; every token carries it.
    result = loss_of(ClippedRatio(0.2, 0.2, level="sequence"), [1.1, 0.9, 1.2, 1.0], 1.0)
    assert_close(result.terms, torch.full((1, 4), -1.044009), atol=1e-6, rtol=0)
    clipped = loss_of(ClippedRatio(3e-4, 4e-4, level="sequence"), [1.1, 0.9, 1.2, 1.0], 1.0)
    assert_close(clipped.terms, torch.full((1, 4), -1.0004))
    assert clipped.metrics[HIGH].all()


def test_gspo_has_the_gradient_of_the_sequence_ratio():
    logprobs = torch.tensor([[1.1, 0.9, 1.2, 1.0]]).log().requires_grad_()
    mask = torch.ones(1, 4, dtype=torch.bool)
    terms = applied(
        ClippedRatio(level="sequence"), logprobs, torch.zeros(1, 4), torch.tensor([3.0]), mask
    ).terms
    loss = aggregate(terms, mask, "sequence_mean", tokens=4, sequences=1, max_length=4)
    (by_token,) = torch.autograd.grad(loss, logprobs)
    (direct,) = torch.autograd.grad(-3.0 * logprobs.mean().exp(), logprobs)
    assert_close(by_token, direct)


def test_on_policy_ratios_are_exactly_one_and_losses_agree():
    logprobs = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
    advantages, mask = torch.tensor([1.5, -0.5]), torch.ones(2, 3, dtype=torch.bool)
    for loss in (ClippedRatio(), ClippedRatio(0.2, 0.28), ClippedRatio(3e-4, 4e-4, level="sequence")):
        terms = applied(loss, logprobs, logprobs.clone(), advantages, mask).terms
        assert (terms == -advantages[:, None].expand(2, 3)).all()


# A sequence of two tokens with losses 1, 2 and one of four tokens with 1 each; 6 tokens, sum 7.
TERMS = torch.tensor([[1.0, 2.0, 9.0, 9.0], [1.0, 1.0, 1.0, 1.0]])
MASK = torch.tensor([[True, True, False, False], [True, True, True, True]])
COUNTS: dict[str, Any] = {"tokens": 6, "sequences": 2, "max_length": 8}


@pytest.mark.parametrize(
    ("how", "value"),
    [
        ("sequence_mean", 1.25),  # (1.5 + 1) / 2
        ("token_mean", 7 / 6),
        ("constant", 0.4375),  # 7 / (2 · 8)
        ("sequence_sum", 3.5),  # (3 + 4) / 2
        ("micro_batch_mean", 7 / 6),  # of one micro-batch
    ],
)
def test_aggregation(how, value):
    assert_close(aggregate(TERMS, MASK, how, **COUNTS), torch.tensor(value))


def test_a_sequence_of_one_token_counts_whole():
    mask = torch.tensor([[True, False]])
    logprobs = torch.tensor([[0.1, 9.0]])
    terms = applied(ClippedRatio(level="sequence"), logprobs, torch.zeros(1, 2), torch.ones(1), mask).terms
    assert_close(terms[:, :1], -torch.tensor([[0.1]]).exp())
    loss = aggregate(terms, mask, "sequence_mean", tokens=1, sequences=1, max_length=2)
    assert_close(loss, -torch.tensor(0.1).exp())


def in_two(how):
    return [aggregate(TERMS[row : row + 1], MASK[row : row + 1], how, **COUNTS, parts=2) for row in range(2)]


@pytest.mark.parametrize("how", OF_THE_STEP)
def test_shares_add_up_however_the_step_is_cut(how):
    assert_close(sum(in_two(how)), aggregate(TERMS, MASK, how, **COUNTS))


def test_a_mean_of_micro_batches_counts_their_own_tokens():
    # Means 1.5 and 1, each half: the first sequence counts more than its share of tokens.
    assert [share.item() for share in in_two("micro_batch_mean")] == [0.75, 0.5]


@pytest.mark.parametrize(
    ("how", "value"),
    [
        # Weights 0.75 and 0.25: sums 3 · 0.75 + 4 · 0.25 = 3.25, tokens 2 · 0.75 + 4 · 0.25 = 2.5, one sequence.
        ("sequence_mean", 1.375),  # 1.5 · 0.75 + 1 · 0.25
        ("token_mean", 1.3),  # 3.25 / 2.5
        ("constant", 0.40625),  # 3.25 / (1 · 8)
        ("sequence_sum", 3.25),
        ("micro_batch_mean", 1.3),
    ],
)
def test_aggregation_under_weights(how, value):
    weights = torch.tensor([0.75, 0.25])
    found = aggregate(TERMS, MASK, how, tokens=2.5, sequences=1.0, max_length=8, weights=weights)
    assert_close(found, torch.tensor(value))


@pytest.mark.parametrize("how", AGGREGATIONS)
def test_a_weight_is_so_many_equal_sequences(how):
    rows = torch.tensor([0, 0, 0, 1])
    repeated = aggregate(TERMS[rows], MASK[rows], how, tokens=10, sequences=4, max_length=8)
    weighted = aggregate(
        TERMS, MASK, how, tokens=10, sequences=4, max_length=8, weights=torch.tensor([3.0, 1.0])
    )
    assert_close(weighted, repeated)


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_a_cap_on_the_unclipped_ratio_holds_where_the_advantage_is_negative(level):
    logprobs = torch.tensor([[0.7], [1.35], [4.0], [9.0]]).log().requires_grad_()
    mask = torch.ones(4, 1, dtype=torch.bool)
    for advantage, terms, held in (
        (-1.0, [0.8, 1.35, 4.0, 4.0], [False, False, False, True]),
        (1.0, [-0.7, -1.2, -1.2, -1.2], [False] * 4),
    ):
        loss = ClippedRatio(level=level, delta=4.0)
        result = applied(loss, logprobs, torch.zeros(4, 1), torch.full((4,), advantage), mask)
        assert_close(result.terms[:, 0], torch.tensor(terms))
        assert result.metrics["clip_ratio/delta_mean"][:, 0].tolist() == held
        (gradient,) = torch.autograd.grad(result.terms.sum(), logprobs)
        assert (gradient[3] == 0) == (held[3] or advantage > 0)
    with pytest.raises(ValueError, match="must exceed"):
        ClippedRatio(epsilon_high=0.28, delta=1.28)


def test_luspo_has_the_gradient_of_length_times_the_sequence_ratio():
    logprobs = torch.tensor([[1.1, 0.9, 1.2, 1.0]]).log().requires_grad_()
    mask = torch.ones(1, 4, dtype=torch.bool)
    loss = ClippedRatio(level="sequence")
    terms = applied(loss, logprobs, torch.zeros(1, 4), torch.tensor([3.0]), mask).terms
    ours = aggregate(terms, mask, "sequence_sum", tokens=4, sequences=1, max_length=4)
    direct = -4 * 3.0 * logprobs.mean().exp()
    assert_close(ours, direct)
    assert_close(*(torch.autograd.grad(one, logprobs)[0] for one in (ours, direct)))


def test_unknown_choices_name_the_known():
    with pytest.raises(ValueError, match="token_mean, sequence_mean, constant"):
        aggregate(TERMS, MASK, "mean", **COUNTS)
    with pytest.raises(ValueError, match="token, sequence"):
        ClippedRatio(level="row")
