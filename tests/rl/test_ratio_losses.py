from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.testing import assert_close

from mllmrec.rl.losses import AGGREGATIONS, ClippedRatio, LossInputs, PolicyLoss, aggregate
from mllmrec.rl.ratio_losses import Gmpo, Sapo
from mllmrec.rl.reinforce import Cispo, Opmd, Reinforce, Vespo
from mllmrec.testing import check_loss

ALL: list[Callable[[], PolicyLoss]] = [
    ClippedRatio,
    lambda: ClippedRatio(delta=4.0),
    lambda: ClippedRatio(level="sequence"),
    Sapo,
    Gmpo,
    Reinforce,
    Opmd,
    Cispo,
    lambda: Cispo(most=1.2, least=0.8),
    Vespo,
]
NAMES = ["clip", "delta", "sequence", "sapo", "gmpo", "reinforce", "opmd", "cispo", "cispo2", "vespo"]


def inputs_of(ratios, advantages, mask=None) -> LossInputs:
    """(r, T) ratios of completions whose tokens had log-probabilities of -1, and (r,) advantages."""
    old = torch.full_like(torch.tensor(ratios), -1.0)
    logprobs = (old + torch.tensor(ratios).log()).requires_grad_()
    mask = torch.ones_like(old, dtype=torch.bool) if mask is None else torch.tensor(mask)
    return LossInputs(logprobs, old, torch.tensor(advantages)[:, None], mask, entropy=torch.zeros_like(old))


@pytest.mark.parametrize(
    ("advantage", "ratio", "gate"),
    [
        (1.0, 1.0, 2.0),
        (1.0, 1.5, 2.489837),
        (1.0, 0.5, 1.510163),
        (-1.0, 1.0, 1.904762),  # 4 / 1.05 / 2
        (-1.0, 1.5, 2.393585),
    ],
)
def test_sapos_gate(advantage, ratio, gate):
    terms = Sapo()(inputs_of([[ratio]], [advantage])).terms
    assert_close(terms, torch.tensor([[-gate * advantage]]), atol=1e-6, rtol=0)


@pytest.mark.parametrize("advantage", [2.0, -0.5])
def test_sapos_gradient_on_policy_is_that_of_the_ratio(advantage):
    given = inputs_of([[1.0]], [advantage])
    Sapo()(given).terms.sum().backward()
    assert_close(given.logprobs.grad, torch.tensor([[-advantage]]))


# Logarithms of the ratios: 0.0953, -0.1054, 0.47, -0.6931. The clip holds 0.47 only where A > 0, and -0.6931 only where A < 0.
@pytest.mark.parametrize(
    ("advantage", "mean", "held"), [(1.0, 0.927002, 2), (-1.0, 1.015101, 3)], ids=["up", "down"]
)
def test_gmpos_geometric_mean(advantage, mean, held):
    given = inputs_of([[1.1, 0.9, 1.6, 0.5]], [advantage])
    result = Gmpo()(given)
    assert_close(result.terms, torch.full((1, 4), -mean * advantage), atol=1e-6, rtol=0)
    low, high = (result.metrics[f"clip_ratio/{side}_mean"][0].tolist() for side in ("low", "high"))
    assert [place for place in range(4) if low[place] or high[place]] == [held]
    # The gradient of the geometric mean over all four tokens; the token that is held has none.
    result.terms.mean().backward()
    expected = torch.full((1, 4), -mean * advantage / 4)
    expected[0, held] = 0.0
    assert_close(given.logprobs.grad, expected, atol=1e-6, rtol=0)


def test_reinforce_and_opmd_by_hand():
    given = inputs_of([[1.0, 1.5]], [2.0])
    # Log-probabilities of -1 and -1 + ln 1.5 = -0.594535.
    assert_close(Reinforce()(given).terms, torch.tensor([[2.0, 1.18907]]), atol=1e-5, rtol=0)
    assert_close(Opmd(tau=3.0)(given).terms, torch.tensor([[0.5, 0.2972675]]), atol=1e-5, rtol=0)
    Opmd(tau=3.0)(given).terms.sum().backward()
    assert_close(given.logprobs.grad, torch.tensor([[-0.5, -0.5]]))


@pytest.mark.parametrize("advantage", [2.0, -0.5])
def test_cispo_caps_the_weight_and_keeps_every_gradient(advantage):
    given = inputs_of([[0.5, 1.1, 3.0]], [advantage])
    for loss, weights in (
        (Cispo(most=1.2), [0.5, 1.1, 1.2]),
        (Cispo(most=1.2, least=0.8), [0.8, 1.1, 1.2]),
    ):
        result = loss(given)
        (gradient,) = torch.autograd.grad(result.terms.sum(), given.logprobs)
        assert_close(gradient, -advantage * torch.tensor([weights]))
        assert result.metrics["clip_ratio/high_mean"].tolist() == [[False, False, True]]


@pytest.mark.parametrize(
    ("advantage", "w", "phi"),
    [
        (1.0, 0.5, 1.120422),
        (1.0, 1.0, 1.0),
        (1.0, 1.5, 0.502043),
        (-1.0, 0.5, 0.339785),
        (-1.0, 1.0, 1.0),
        (-1.0, 1.5, 1.241593),
    ],
)
def test_vespos_weight_is_of_the_product_of_ratios(advantage, w, phi):
    # The third token does not count.
    given = inputs_of([[w / 2, 2.0, 9.0]], [advantage], [[True, True, False]])
    result = Vespo()(given)
    assert_close(result.metrics["phi_mean"][:, :1], torch.tensor([[phi]]), atol=1e-6, rtol=0)
    result.terms[given.mask].sum().backward()
    assert_close(given.logprobs.grad, -phi * advantage * torch.tensor([[1.0, 1.0, 0.0]]), atol=1e-6, rtol=0)


@pytest.mark.parametrize("make", ALL, ids=NAMES)
def test_they_are_losses(make):
    check_loss(make())


@pytest.mark.parametrize("make", ALL, ids=NAMES)
def test_the_first_update_has_reinforces_gradient(make):
    # Two answers of the policy as it is now, the second of one token.
    given = inputs_of([[1.0, 1.0], [1.0, 1.0]], [1.5, -0.5], [[True, True], [True, False]])
    loss = make()
    (gradient,) = torch.autograd.grad(loss(given).terms[given.mask].sum(), given.logprobs)
    halves = 2.0 if isinstance(loss, Opmd) else 1.0
    assert_close(gradient, torch.tensor([[-1.5, -1.5], [0.5, 0.0]]) / halves)


@pytest.mark.parametrize("make", ALL, ids=NAMES)
@pytest.mark.parametrize("distance", [1e-3, 50.0, 1000.0])
def test_far_from_the_old_policy_all_stays_finite(make, distance):
    # Both signs of distance and advantage, an advantage of zero, and a row without tokens.
    logprobs = torch.full((6, 2), -1.0, requires_grad=True)
    signs = torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0, 1.0])[:, None]
    advantages = torch.tensor([1.0, 1.0, -1.0, -1.0, 0.0, 1.0])[:, None]
    mask = torch.tensor([[True, True]] * 5 + [[False, False]])
    given = LossInputs(
        logprobs, -1.0 - signs * distance * torch.ones(6, 2), advantages, mask, torch.zeros(6, 2)
    )
    terms = make()(given).terms
    for how in AGGREGATIONS:
        weights = torch.tensor([0.5, 0.5, 1.0, 1.0, 1.0, 1.0])
        loss = aggregate(terms, mask, how, tokens=8.0, sequences=4.0, max_length=2, weights=weights)
        (gradient,) = torch.autograd.grad(loss, logprobs, retain_graph=True)
        assert loss.isfinite()
        assert gradient.isfinite().all()
        assert (gradient[4:] == 0).all()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Sapo(tau_negative=0.0), "tau_negative=0.0"),
        (lambda: Cispo(most=0.5), "most=0.5"),
        (lambda: Opmd(tau=-1.0), "tau=-1.0"),
        (lambda: Vespo(lambda_positive=0.0), "lambda_positive=0.0"),
    ],
)
def test_settings_that_cannot_work_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()
