"""The common parts of all phases: the batches of samples, the optimiser, and one update from micro-batches."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import lightning
import torch
from transformers import get_scheduler

from mllmrec.engine.base import Engine
from mllmrec.errors import UserError
from mllmrec.models.policy import Policy
from mllmrec.rl.parts import Part
from mllmrec.step.updates import NotFinite, Updates

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class OptimizerSettings:
    """AdamW with a learning-rate schedule over the whole phase."""

    learning_rate: float
    schedule: str = "linear"
    warmup_ratio: float = 0.0
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0


@dataclass(frozen=True)
class Learner:
    """The policy that learns, and how prompts go through its model."""

    policy: Policy  # with the phase begun
    engine: Engine  # runs the model
    micro_batch_size: int  # prompts through the model at once, each with its answers


class WrittenFile(Protocol):
    """A file that grows with the steps."""

    def save(self) -> None:
        """Bring it up to date."""


class Divided(Protocol):
    """A model whose weights are divided among processes; `mllmrec.phases.sharded.Division` is one."""

    def divide(self, module: lightning.LightningModule) -> None:
        """Divide the weights, if Lightning's strategy does not."""

    def updates(self, updates: Updates) -> Updates:
        """The same updates, of divided weights."""
        ...


class PhaseModule(lightning.LightningModule):
    """A training phase. Optimisation is manual, since a step may hold rollouts, several updates and micro-batches."""

    name: str  # of the phase
    section: str  # of the settings that it has
    # Whether a step's shares of the loss are those of this process alone, and add up over all processes.
    divides_steps: ClassVar[bool] = False

    def __init__(self, model: Any, optimizer: OptimizerSettings, updates: int) -> None:
        """Hold the model.

        Args:
            model: the model, with the phase's trainable weights.
            optimizer: the optimiser's settings.
            updates: optimiser steps in the whole phase, for the schedule.
        """
        super().__init__()
        self.automatic_optimization = False
        # Lightning leaves the model's mode alone, and loaded models are in evaluation mode. Without this line there would
        # be no dropout and no gradient checkpointing.
        self.model: Any = model.train()
        self.settings, self.updates = optimizer, updates
        self._updates: Updates | None = None  # once there is a trainer
        self.not_finite: NotFinite | None = None  # skips updates that are not finite; None: they are errors
        self._logged: dict[str, float] = {}  # by the step at work
        self._made = (0, False)  # updates of an earlier attempt, and whether they moved a weight
        self.written: list[WrittenFile] = []  # files that grow with the steps
        self.strict_loading = False  # checkpoints hold only weights that train
        self.division: Divided | None = None  # where the model's weights are divided among processes

    def configure_optimizers(self) -> Any:
        """AdamW over the trainable weights."""
        weights = [weight for weight in self.model.parameters() if weight.requires_grad]
        if not weights:
            raise UserError(
                f"phase {self.name} has nothing to train: no weight is trainable, so look at the adapters of the backbone "
                f"(backbone.lora) and of the phase ({getattr(self, 'section', self.name)}.lora)"
            )
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
        """Leave batches alone: they hold texts, and the phases move their own tensors."""
        return batch

    def configure_model(self) -> None:
        """Divide the model, if it is to be divided."""
        if self.division is not None:
            self.division.divide(self)

    @property
    def update(self) -> Updates:
        """Makes one optimiser step from the micro-batches' shares of the loss; see `Updates`."""
        if self._updates is None:
            self._updates = Updates(
                self.optimizers(),
                self.lr_schedulers(),
                name=self.name,
                section=getattr(self, "section", self.name),
                max_grad_norm=self.settings.max_grad_norm,
                backward=self.manual_backward,
                # Gradients of a divided model are not at its weights.
                weights=[]
                if self.division is not None
                else [(name, weight) for name, weight in self.named_parameters() if weight.requires_grad],
                not_finite=self.not_finite,
            )
            if self.division is not None:
                self._updates = self.division.updates(self._updates)
            self._updates.count, self._updates.moved = self._made
        return self._updates

    @property
    def parts(self) -> list[Part]:
        """The parts of a step, whose state is saved."""
        return []

    def progress(self) -> dict[str, Any]:
        """What a checkpoint holds beside weights and optimiser."""
        made = self._made if self._updates is None else (self._updates.count, self._updates.moved)
        return {"updates": made, "parts": [(type(part).__name__, part.state_dict()) for part in self.parts]}

    def take_up(self, progress: Mapping[str, Any]) -> None:
        """Go on from what `progress` returned."""
        count, moved = progress["updates"]
        self._made = (count, moved)
        for part, (_, state) in zip(self.parts, progress["parts"], strict=True):
            part.load_state_dict(state)

    def save_files(self) -> None:
        """Bring the files that grow with the steps up to date."""
        for file in self.written:
            file.save()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave out weights that do not train; another attempt at the job has them from where this one had them."""
        trains = {name for name, weight in self.named_parameters() if weight.requires_grad}
        checkpoint["state_dict"] = {
            name: weight for name, weight in checkpoint["state_dict"].items() if name in trains
        }

    def on_train_end(self) -> None:
        """Warn if nothing was learnt."""
        if self._updates is None or not self._updates.moved:
            log.warning(
                "%s: no update had both a gradient and a learning rate, so the weights have not changed",
                self.name,
            )

    def in_tokens(self, batch: Any, step: int) -> dict[str, Any]:
        """A batch of a step (counted from 0) for inspection: ids of its samples, and the tokens that the model sees.

        Values are texts, numbers, arrays, and lists and mappings of those.
        """
        return {}

    def log_step(self, metrics: Mapping[str, float]) -> None:
        """Log numbers of this step; of several calls in a step the last one counts."""
        numbers = {key: float(value) for key, value in metrics.items()}
        self._logged |= numbers
        # For callbacks and the progress bar. Lightning would go on logging a number that a later step does not have.
        shown = {key: value for key, value in numbers.items() if key != "step"}
        self.log_dict(shown, logger=False, on_step=True, on_epoch=False)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Hand the step's numbers to the loggers."""
        numbers, self._logged = self._logged, {}
        step = int(numbers.pop("step", batch_idx))
        every: int = getattr(self.trainer, "log_every_n_steps", 1)
        if numbers and (batch_idx + 1) % every == 0:
            for logger in self.trainer.loggers:
                logger.log_metrics({"epoch": self.trainer.current_epoch, **numbers}, step)
