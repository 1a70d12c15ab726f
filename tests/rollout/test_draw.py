from __future__ import annotations

import math

import pytest
import torch

from mllmrec.rollout.draw import TRIES, draw, inverse_cdf, uniforms

LOGITS = torch.tensor([0.3, -1.0, 1.2, -math.inf, 0.0])
DRAWS = 20_000


def numbers(rows, seed=0):
    return uniforms([torch.Generator().manual_seed(seed)], rows, TRIES)[0]


def frequencies(**settings):
    drawn = draw(LOGITS.expand(DRAWS, -1), numbers(DRAWS), **settings)
    return torch.bincount(drawn, minlength=5).double() / DRAWS


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_frequencies_are_the_probabilities(temperature):
    expected = torch.softmax(LOGITS.double() / temperature, -1)
    deviation = (expected * (1 - expected) / DRAWS).sqrt()
    found = frequencies(temperature=temperature)
    assert ((found - expected).abs() <= 3 * deviation).all()
    assert found[3] == 0


def test_nucleus_is_the_smallest_set_that_reaches_top_p():
    # exp: 1.350, 0.368, 3.320, 0, 1; sum 6.038; in order 0.550, 0.224, 0.166, 0.061.
    kept = {0.5: [2], 0.55: [2, 0], 0.8: [2, 0, 4], 0.95: [2, 0, 4, 1], 1.0: [2, 0, 4, 1]}
    probabilities = torch.softmax(LOGITS.double(), -1)
    assert 0.549 < probabilities[2] < 0.55
    for top_p, tokens in kept.items():
        expected = torch.zeros(5, dtype=torch.float64)
        expected[tokens] = probabilities[tokens]
        expected /= expected.sum()
        found = frequencies(top_p=top_p)
        assert ((found - expected).abs() <= 3 * (expected * (1 - expected) / DRAWS).sqrt() + 1e-12).all()


def test_equal_probabilities_enter_the_nucleus_by_their_id():
    # Four tokens of 0.25: 0.5 is reached by the first two, 0.51 needs a third.
    for top_p, kept in ((0.5, 2), (0.51, 3)):
        drawn = draw(torch.zeros(DRAWS, 4), numbers(DRAWS), top_p=top_p)
        assert drawn.unique().tolist() == list(range(kept))


def test_draws_that_are_rejected_to_the_end_are_exact_too():
    # A nucleus of one token in eight: 0.875 ** 3 = 67 % of the rows reach the last try, which sorts.
    logits = torch.tensor([0.0, 0.0, 0.0, 1e-3, 0.0, 0.0, 0.0, 0.0])
    assert draw(logits.expand(DRAWS, -1), numbers(DRAWS), top_p=0.1).unique().tolist() == [3]


def test_temperature_zero_is_the_most_likely_token():
    assert draw(LOGITS.expand(5, -1), numbers(5), temperature=0).tolist() == [2] * 5


def test_a_number_at_the_very_end_takes_the_last_token_with_weight():
    # 1 - 2^-53 is the largest number that torch.rand can return.
    assert draw(torch.tensor([[0.0, 0.0, -math.inf]]), torch.full((1, TRIES), 1 - 2**-53)).tolist() == [1]


def test_a_number_is_a_share_of_whatever_the_weights_sum_to():
    # The first token has 1 of 4 parts: numbers below 0.25.
    weights = torch.tensor([[1.0, 3.0]]).expand(4, -1)
    assert inverse_cdf(weights, torch.tensor([0.0, 0.24, 0.26, 0.99]).double()).tolist() == [0, 0, 1, 1]
    small = weights / 10
    assert inverse_cdf(small, torch.tensor([0.0, 0.24, 0.26, 0.99]).double()).tolist() == [0, 0, 1, 1]


def test_the_lowest_number_does_not_take_a_token_without_weight():
    assert inverse_cdf(torch.tensor([[0.0, 0.0, 1.0]]), torch.zeros(1).double()).tolist() == [2]


def test_the_sorted_last_try_has_the_frequencies_of_the_nucleus():
    # All first tries are just below 1, which is the last and rarest token, outside the nucleus of 0 and 1 (0.5 and 0.3).
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log().expand(DRAWS, -1)
    given = numbers(DRAWS).clone()
    given[:, :-1] = 0.999
    drawn = draw(logits, given, top_p=0.8 - 1e-3)
    found = torch.bincount(drawn, minlength=4).double() / DRAWS
    expected = torch.tensor([5 / 8, 3 / 8, 0, 0], dtype=torch.float64)
    assert ((found - expected).abs() <= 3 * (expected * (1 - expected) / DRAWS).sqrt() + 1e-12).all()


def test_each_prompt_has_numbers_of_its_own():
    before = torch.get_rng_state()
    both = uniforms([torch.Generator().manual_seed(seed) for seed in (3, 4)], 5, 2)
    assert both.shape == (2, 5, 2)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(uniforms([torch.Generator().manual_seed(4)], 5, 2)[0], both[1])
    assert not torch.equal(both[0], both[1])
