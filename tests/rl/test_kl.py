from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from mllmrec.rl.kl import kl_estimate


@pytest.mark.parametrize(
    ("policy", "reference", "estimator", "value"),
    [
        # log(0.5 / 0.4) = 0.223144; its half square; 0.4 / 0.5 - 1 + 0.223144.
        (0.5, 0.4, "k1", 0.223144),
        (0.5, 0.4, "k2", 0.024897),
        (0.5, 0.4, "k3", 0.023144),
        # log(0.2 / 0.4) = -0.693147; 0.4 / 0.2 - 1 - 0.693147.
        (0.2, 0.4, "k1", -0.693147),
        (0.2, 0.4, "k2", 0.240227),
        (0.2, 0.4, "k3", 0.306853),
        (0.2, 0.4, "k1+", -0.693147),
        (0.2, 0.4, "k3+", 0.306853),
    ],
)
def test_known_pairs(policy, reference, estimator, value):
    logprobs = torch.tensor([[policy]]).log(), torch.tensor([[reference]]).log()
    assert_close(kl_estimate(*logprobs, estimator), torch.tensor([[value]]), atol=1e-6, rtol=0)


LOGITS, REFERENCE = [0.3, -0.2, 0.5], [0.1, 0.4, -0.3]


@pytest.mark.parametrize(
    ("estimator", "gradient"),
    [
        ("k1", [0.0, 0.0, 0.0]),
        ("k2", [-0.030963, -0.190363, 0.221326]),
        ("k3", [0.022509, -0.232468, 0.209959]),
        ("k1+", [-0.030963, -0.190363, 0.221326]),
        ("k3+", [-0.030963, -0.190363, 0.221326]),
    ],
)
def test_expected_gradient_as_a_loss_on_policy(estimator, gradient):
    logits = torch.tensor(LOGITS, dtype=torch.float64, requires_grad=True)
    logprobs = torch.log_softmax(logits, -1)
    reference = torch.log_softmax(torch.tensor(REFERENCE, dtype=torch.float64), -1)
    # Each token's loss weighted by the probability of drawing it, which is no part of the loss.
    (logprobs.detach().exp() * kl_estimate(logprobs, reference, estimator)).sum().backward()
    assert_close(logits.grad, torch.tensor(gradient, dtype=torch.float64), atol=1e-6, rtol=0)


def test_k2_and_k3_have_the_gradients_of_the_two_divergences():
    logits = torch.tensor(LOGITS, dtype=torch.float64, requires_grad=True)
    policy = torch.log_softmax(logits, -1)
    reference = torch.log_softmax(torch.tensor(REFERENCE, dtype=torch.float64), -1)
    forward = (policy.exp() * (policy - reference)).sum()
    backward = (reference.exp() * (reference - policy)).sum()
    for divergence, estimator in ((forward, "k2"), (backward, "k3")):
        (exact,) = torch.autograd.grad(divergence, logits, retain_graph=True)
        loss = (policy.detach().exp() * kl_estimate(policy, reference, estimator)).sum()
        (estimated,) = torch.autograd.grad(loss, logits, retain_graph=True)
        assert_close(estimated, exact)


def test_mean_of_k3_is_the_divergence():
    policy, reference = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.2, 0.2, 0.6])
    exact = (policy * (policy / reference).log()).sum()
    for estimator in ("k1", "k3"):
        assert_close((policy * kl_estimate(policy.log(), reference.log(), estimator)).sum(), exact)


def test_equal_policies_have_exactly_no_divergence():
    logprobs = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    for estimator in ("k1", "k2", "k3"):
        assert (kl_estimate(logprobs, logprobs.clone(), estimator) == 0).all()


def test_unknown_estimator_names_the_choices():
    with pytest.raises(ValueError, match="k1, k2, k3"):
        kl_estimate(torch.zeros(1), torch.zeros(1), "k4")
