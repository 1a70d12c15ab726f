from __future__ import annotations

import logging

import pytest
import torch

from mllmrec.phases.base import OptimizerSettings, PhaseModule
from mllmrec.phases.unmoved_weights import UnmovedWeights


class Mixed(PhaseModule):
    """Three weights of 1 and one of 0, each with gradient 1. In bfloat16 the number below 1 is 1 - 1/256."""

    name = section = "sft"

    def __init__(self, learning_rate, dtype=torch.bfloat16, schedule="linear", idle=0):
        super().__init__(torch.nn.Linear(4, 1, bias=False), OptimizerSettings(learning_rate, schedule), 4)
        self.model.to(dtype)
        self.idle = idle
        with torch.no_grad():
            self.model.weight.copy_(torch.tensor([[1.0, 1.0, 1.0, 0.0]]))

    def training_step(self, batch, batch_idx):
        seen = torch.ones(4, dtype=self.model.weight.dtype)
        seen[: self.idle] = 0  # without a gradient
        self.update([self.model(seen).sum() * batch[0]])


@pytest.fixture
def warned(fit, caplog):
    def run(stage, batches=(1.0,) * 4, share=0.5, steps=1):
        caplog.clear()
        with caplog.at_level(logging.WARNING, logger="mllmrec.phases.unmoved_weights"):
            fit(stage, [[factor] for factor in batches], callbacks=[UnmovedWeights(steps, share)])
        return [record.message for record in caplog.records if record.name.endswith(".unmoved_weights")]

    return run


def test_a_learning_rate_that_most_weights_are_too_coarse_for_is_warned_of_once(warned):
    (message,) = warned(Mixed(1e-3))
    assert message.startswith("sft: a step at learning rate 0.001 left 75% of the weights as they were")
    assert "rounding to bfloat16" in message
    assert "raise sft.learning_rate" in message


def test_a_smaller_share_than_the_limit_is_not(warned):
    assert warned(Mixed(1e-3), share=0.75) == []


def test_weights_that_move_bring_no_warning(warned):
    assert warned(Mixed(1e-2)) == []
    assert warned(Mixed(1e-3, torch.float32)) == []


def test_weights_without_a_gradient_do_not_count(warned):
    # Two of the three weights of 1 have none, so that one of two stays.
    assert warned(Mixed(1e-3, idle=2)) == []
    (message,) = warned(Mixed(1e-3, idle=2), share=0.4)
    assert "left 50% of the weights" in message


def test_a_step_without_a_gradient_says_nothing(warned):
    (message,) = warned(Mixed(1e-3, schedule="constant"), [1.0, 0.0, 0.0, 1.0])
    assert "left 75%" in message
    assert warned(Mixed(1e-3, schedule="constant"), [1.0, 0.0, 0.0, 0.0]) == []
