"""Training in bfloat16 changes the type of the weights alone."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from lightning.pytorch.plugins.precision import HalfPrecision

from mllmrec.phases.trainers import keep_to_weights


@dataclass(frozen=True)
class Held:
    number: int


def test_a_step_gets_its_batch_as_it_is_and_computes_in_single_precision() -> None:
    plugin, batch = HalfPrecision("bf16-true"), [Held(1)]
    with plugin.train_step_context():
        assert torch.tensor([0.5]).dtype == torch.bfloat16, "Lightning's own step needs the change no more"
    with pytest.raises(ValueError, match="frozen dataclass"):
        plugin.convert_input(batch)
    keep_to_weights(plugin)
    with plugin.train_step_context():
        assert torch.tensor([0.5]).dtype == torch.float32
    assert plugin.convert_input(batch) is batch
    assert plugin.convert_module(torch.nn.Linear(1, 1)).weight.dtype == torch.bfloat16
