from __future__ import annotations

import math

import pytest
import torch

from mllmrec.baselines.next_item_loss import NextItemLoss
from mllmrec.errors import UserError


def test_cross_entropy_is_over_all_items():
    # Products with the three items are 0, 0 and log 2, so their shares are 1/4, 1/4 and 1/2.
    states = torch.tensor([[math.log(2)], [math.log(2)]])
    vectors = torch.tensor([[0.0], [0.0], [1.0]])
    loss = NextItemLoss()(states, vectors, torch.tensor([2, 0]))
    assert loss.item() == pytest.approx((math.log(2) + math.log(4)) / 2)


def test_cross_entropy_in_blocks_is_that_of_the_whole(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    states, vectors = torch.randn(7, 4, generator=generator), torch.randn(9, 4, generator=generator)
    targets = torch.randint(9, (7,), generator=generator)
    monkeypatch.setattr("mllmrec.baselines.next_item_loss._STATES_AT_ONCE", 3)
    whole = torch.nn.functional.cross_entropy(states @ vectors.T, targets)
    assert NextItemLoss()(states, vectors, targets).item() == pytest.approx(whole.item(), abs=1e-6)


def test_bce_is_of_the_target_against_other_items():
    # Every other item has product 0, so log σ = -log 2; the target's product is log 3, so log σ = -log(4/3).
    states, vectors = torch.tensor([[math.log(3)]]), torch.tensor([[0.0], [1.0], [0.0], [0.0]])
    loss = NextItemLoss("bce", negatives=5)(states, vectors, torch.tensor([1]))
    assert loss.item() == pytest.approx(math.log(4 / 3) + 5 * math.log(2))


def test_calibration_weighs_the_target_by_beta():
    # α = 1/4, t = 3/4: β = 1/4 (3/4 (1 - 4) + 4) = 7/16; t = 1 gives β = α.
    states, vectors, target = torch.zeros(1, 1), torch.zeros(5, 1), torch.tensor([2])
    for calibration, beta in ((0.75, 7 / 16), (1.0, 1 / 4), (0.0, 1.0)):
        loss = NextItemLoss("bce", negatives=1, calibration=calibration)(states, vectors, target)
        assert loss.item() == pytest.approx((beta + 1) * math.log(2))


@pytest.mark.parametrize("target", [0, 1, 2])
def test_every_other_item_is_drawn_and_never_the_target(target):
    vectors = torch.zeros(3, 1, requires_grad=True)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        NextItemLoss("bce", negatives=2000)(torch.ones(1, 1), vectors, torch.tensor([target])).backward()
    # A negative has gradient σ(0) = 1/2 each time it is drawn; the target has -1/2 once.
    drawn = vectors.grad[:, 0] * 2
    assert drawn[target].item() == -1
    others = [drawn[item].item() for item in range(3) if item != target]
    assert sum(others) == 2000
    assert min(others) > 850


@pytest.mark.parametrize("settings", [{"loss": "bpr"}, {"negatives": 0}, {"calibration": 1.5}], ids=str)
def test_refusals(settings):
    with pytest.raises(UserError, match=f"={next(iter(settings.values()))}"):
        NextItemLoss(**settings)
