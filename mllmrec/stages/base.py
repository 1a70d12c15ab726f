"""The common parts of all stages: the batches of samples, the optimiser, and one update from micro-batches."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import lightning
import numpy as np
import torch
from transformers import get_scheduler

from mllmrec.errors import UserError
from mllmrec.randomness import numpy_generator
from mllmrec.step.updates import Updates

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class OptimizerSettings:
    """AdamW with a learning-rate schedule over the whole stage."""

    learning_rate: float
    schedule: str = "linear"
    warmup_ratio: float = 0.0
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0


def training_batches(
    size: int, batch_size: int, *, epochs: float, max_steps: int | None, seed: int, purpose: str
) -> list[np.ndarray]:
    """The sample positions of each step, shuffled anew every epoch; the last batch of an epoch may be smaller.

    Args:
        size: number of samples.
        batch_size: samples in a step.
        epochs: passes; a fraction ends within a pass.
        max_steps: the largest number of batches.
        seed: the run's seed.
        purpose: names the shuffles.
    """
    per_epoch = math.ceil(size / batch_size)
    # 100 steps times 0.07 is 7.000000000000001 in binary fractions; that must not add an eighth step.
    steps = math.ceil(round(per_epoch * epochs, 6))
    if max_steps is not None:
        steps = min(steps, max_steps)
    batches: list[np.ndarray] = []
    epoch = 0
    while len(batches) < steps:
        order = numpy_generator(seed, purpose, "epoch", epoch).permutation(size)
        batches += [order[start : start + batch_size] for start in range(0, size, batch_size)]
        epoch += 1
    return batches[:steps]


class Stage(lightning.LightningModule):
    """A training stage. Optimisation is manual, since a step may hold rollouts, several updates and micro-batches."""

    name: str

    def __init__(self, model: Any, optimizer: OptimizerSettings, updates: int) -> None:
        """Hold the model.

        Args:
            model: the model, with the stage's trainable weights.
            optimizer: the optimiser's settings.
            updates: optimiser steps in the whole stage, for the schedule.
        """
        super().__init__()
        self.automatic_optimization = False
        # Lightning leaves the model's mode alone, and loaded models are in evaluation mode. Without this line there would
        # be no dropout and no gradient checkpointing.
        self.model: Any = model.train()
        self.settings, self.updates = optimizer, updates
        self._updates: Updates | None = None  # once there is a trainer

    def configure_optimizers(self) -> Any:
        """AdamW over the trainable weights."""
        weights = [weight for weight in self.model.parameters() if weight.requires_grad]
        if not weights:
            raise UserError(f"stage {self.name} has nothing to train")
        settings = self.settings
        optimizer = torch.optim.AdamW(
            weights, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
        )
        schedule = get_scheduler(
            "constant_with_warmup" if settings.schedule == "constant" else settings.schedule,
            optimizer,
            num_warmup_steps=round(settings.warmup_ratio * self.updates),
            num_training_steps=self.updates,
        )
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Leave batches alone: they hold texts, and the stages move their own tensors."""
        return batch

    @property
    def update(self) -> Updates:
        """Makes one optimiser step from the micro-batches' shares of the loss; see `Updates`."""
        if self._updates is None:
            self._updates = Updates(
                self.optimizers(),
                self.lr_schedulers(),
                name=self.name,
                max_grad_norm=self.settings.max_grad_norm,
                backward=self.manual_backward,
                weights=[(name, weight) for name, weight in self.named_parameters() if weight.requires_grad],
            )
        return self._updates

    def on_train_end(self) -> None:
        """Warn if nothing was learnt."""
        if self._updates is None or not self._updates.moved:
            log.warning(
                "%s: no update had both a gradient and a learning rate, so the weights have not changed",
                self.name,
            )

    def log_step(self, metrics: Mapping[str, float]) -> None:
        """Log numbers of this step."""
        self.log_dict({key: float(value) for key, value in metrics.items()}, on_step=True, on_epoch=False)
