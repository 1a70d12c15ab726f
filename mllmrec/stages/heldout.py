"""Ranking of a fixed sample of validation users while a stage trains."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning


class HeldOutRanking(lightning.Callback):
    """Every so many optimiser steps, and at the end, log ``val/<metric>`` of the policy as it is."""

    def __init__(self, measure: Callable[[], dict[str, float]], every: int) -> None:
        """Take the measure.

        Args:
            measure: ranks the held-out users, metric name -> mean.
            every: optimiser steps between two measures.
        """
        self.measure, self.every = measure, every
        self._measured_at = -1

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Measure the policy that the stage begins with."""
        self._log(trainer)

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Measure when it is time."""
        if trainer.global_step - max(self._measured_at, 0) >= self.every:
            self._log(trainer)

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Measure the policy that the stage ends with."""
        if self._measured_at != trainer.global_step:
            self._log(trainer)

    def _log(self, trainer: lightning.Trainer) -> None:
        self._measured_at = trainer.global_step
        metrics = {f"val/{name}": value for name, value in self.measure().items()}
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=trainer.global_step)
