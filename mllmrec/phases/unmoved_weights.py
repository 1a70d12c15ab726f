"""Weights that a step leaves as they were, because their number format has no value that near."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

import lightning
import torch
from torch import Tensor

from mllmrec.phases.base import PhaseModule

log = logging.getLogger(__name__)

SAMPLED = 1024  # values looked at of each weight tensor


class UnmovedWeights(lightning.Callback):
    """Warns if a step changes too few of the values that have a gradient.

    A step at a learning rate of 1e-5 is lost on a bfloat16 value above 0.005, while smaller ones still move, so the phase seems
    to learn. An update that changes no value at all is an error of `mllmrec.step.updates.Updates`.

    It looks at one step, at a sample of values: the first one after ``steps`` batches, or after half of a shorter phase, whose
    learning rate is at least half of the highest.
    """

    def __init__(self, steps: int, share: float) -> None:
        """Take the limits.

        Args:
            steps: batches before the step that is looked at.
            share: warn if more than this share of the values, 0 to 1, stays.
        """
        self.steps, self.share = steps, share
        self._done = False
        self._before: list[Tensor] | None = None

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Copy a sample of the values before the step."""
        self._before = None
        batches = trainer.num_training_batches
        begin = min(self.steps, int(batches) // 2) if math.isfinite(batches) else self.steps
        if self._done or batch_idx < begin:
            return
        assert isinstance(pl_module, PhaseModule)
        rates: Any = pl_module.lr_schedulers()
        if rates.get_last_lr()[0] >= pl_module.settings.learning_rate / 2:
            self._before = [_sample(weight.detach()).clone() for weight in _weights(pl_module)]

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Compare; a step without a gradient says nothing, so that the next one is looked at."""
        if self._before is None:
            return
        assert isinstance(pl_module, PhaseModule)
        weights = _weights(pl_module)
        counted, stayed = _stayed(weights, self._before)
        self._before = None
        if not counted:
            return
        self._done = True
        if stayed > self.share * counted:
            section = pl_module.section
            log.warning(
                "%s: a step at learning rate %.3g left %.0f%% of the weights as they were (warnings.unmoved=%g), because "
                "rounding to %s loses so small a step: raise %s.learning_rate, or set trainer.precision=32-true and "
                "backbone.dtype=float32",
                pl_module.name,
                pl_module.settings.learning_rate,
                100 * stayed / counted,
                self.share,
                str(weights[0].dtype).removeprefix("torch."),
                section,
            )

    def state_dict(self) -> dict[str, Any]:
        """What a resumed phase has to know."""
        return {"done": self._done}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Do not look again."""
        self._done = state_dict["done"]


def _stayed(weights: Sequence[Tensor], before: Sequence[Tensor]) -> tuple[int, int]:
    """How many of the sampled values have a gradient, and how many of those are as they were."""
    counts = [
        torch.stack([moves.sum(), (moves & (_sample(weight.detach()) == old)).sum()])
        for weight, old in zip(weights, before, strict=True)
        if weight.grad is not None
        for moves in [_sample(weight.grad) != 0]
    ]
    if not counts:
        return 0, 0
    counted, stayed = torch.stack(counts).sum(0).tolist()
    return counted, stayed


def _weights(module: PhaseModule) -> list[Tensor]:
    optimizer: Any = module.optimizers()
    return [weight for group in optimizer.param_groups for weight in group["params"]]


def _sample(values: Tensor) -> Tensor:
    """At most about `SAMPLED` values, spread evenly; of divided weights, those of this process."""
    values = values.to_local() if hasattr(values, "to_local") else values
    return values.flatten()[:: max(1, values.numel() // SAMPLED)]
