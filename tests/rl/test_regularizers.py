from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from mllmrec.rl.losses import LossInputs
from mllmrec.rl.regularizers import EntropyBonus, KlToReference
from mllmrec.testing import check_regularizer


@pytest.mark.parametrize("moved", [0.0, 0.7])
def test_the_entropy_bonus_has_the_gradient_of_the_entropy_in_expectation(moved):
    # A row for each of three tokens, with the probability that it was drawn: by this policy, or by one some way off.
    logits = torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64, requires_grad=True)
    logprobs = torch.log_softmax(logits, 0)
    old = torch.log_softmax(logits.detach() + moved * torch.tensor([1.0, 0.0, -1.0]), 0)
    entropy = -(logprobs.exp() * logprobs).sum()
    part = EntropyBonus(coefficient=0.001)
    given = LossInputs(
        logprobs[:, None],
        old[:, None],
        torch.zeros(3, 1),
        torch.ones(3, 1, dtype=torch.bool),
        entropy.detach().expand(3, 1),
    )
    terms = part(given)
    assert_close(terms, -entropy.detach().expand(3, 1))
    (found,) = torch.autograd.grad(
        part.weight(0) * (old.exp() * terms[:, 0]).sum(), logits, retain_graph=True
    )
    (exact,) = torch.autograd.grad(-0.001 * entropy, logits)
    assert_close(found, exact)


def test_ratios_correct_the_kl_of_tokens_that_an_older_policy_drew():
    # A row for each of three tokens, with the probability that the older policy drew it.
    logits = torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64, requires_grad=True)
    logprobs = torch.log_softmax(logits, 0)
    reference = torch.log_softmax(torch.tensor([0.1, 0.4, -0.3], dtype=torch.float64), 0)
    old = torch.log_softmax(logits.detach() + torch.tensor([0.7, 0.0, -0.7]), 0)
    mask, zeros = torch.ones(3, 1, dtype=torch.bool), torch.zeros(3, 1)
    given = LossInputs(logprobs[:, None], old[:, None], zeros, mask, zeros, reference=reference[:, None])
    exact = (logprobs.exp() * (logprobs - reference)).sum()
    for ratio in (True, False):
        found = (old.exp() * KlToReference(0.1, "k3", ratio)(given)[:, 0]).sum()
        slopes = [torch.autograd.grad(one, logits, retain_graph=True)[0] for one in (found, exact)]
        assert torch.allclose(found, exact) == torch.allclose(*slopes) == ratio


@pytest.mark.parametrize("ratio", [True, False])
def test_the_kl_is_a_regularizer(ratio):
    check_regularizer(KlToReference(0.1, "k3+", ratio))


def test_it_is_a_regularizer_and_stays_finite():
    check_regularizer(EntropyBonus())
    logprobs = torch.tensor([[-1.0], [-1000.0]], requires_grad=True)
    mask, zeros = torch.ones(2, 1, dtype=torch.bool), torch.zeros(2, 1)
    terms = EntropyBonus()(LossInputs(logprobs, torch.tensor([[-1000.0], [-1.0]]), zeros, mask, zeros))
    terms.sum().backward()
    assert terms.isfinite().all()
    assert logprobs.grad.isfinite().all()
