from __future__ import annotations

import copy

import pytest
import torch

from mllmrec.errors import UserError
from mllmrec.step.updates import Updates


def test_updates_without_a_trainer_are_torch_by_hand():
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2)
    twin = copy.deepcopy(model)
    inputs = torch.randn(4, 6, 3)

    def optimiser(model):
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.01)
        return optimizer, torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, 4)

    optimizer, schedule = optimiser(model)
    update = Updates(optimizer, schedule, max_grad_norm=0.5)
    by_hand, its_schedule = optimiser(twin)
    for step, batch in enumerate(inputs):
        shares = (model(part).square().sum() / 6 for part in batch.split(4))
        numbers = update(shares)
        by_hand.zero_grad()
        loss = twin(batch).square().sum() / 6
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(twin.parameters(), 0.5)
        by_hand.step()
        its_schedule.step()
        assert numbers == pytest.approx(
            {"loss": float(loss), "grad_norm": float(norm), "learning_rate": 0.1 * (1 - step / 4)}, rel=1e-5
        )
        assert norm > 0.5
        for one, other in zip(model.parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(one, other)
    assert (update.count, update.moved) == (4, True)


def test_a_loss_that_is_no_number_names_the_update_and_moves_nothing():
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([weight], lr=0.5)
    update = Updates(
        optimizer, torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0), name="mine", max_grad_norm=2.0
    )
    update([weight.sum()])
    with pytest.raises(UserError, match=r"mine diverged at step 1: loss nan.*lower mine\.learning_rate"):
        update([weight.sum() * float("nan")])
    assert weight.item() == 0.5


def test_an_update_from_nothing_has_no_gradient():
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([weight], lr=0.5)
    update = Updates(optimizer, torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0))
    assert update([]) == {"loss": 0.0, "grad_norm": 0.0, "learning_rate": 0.5}
    assert (weight.item(), update.moved) == (1.0, False)
