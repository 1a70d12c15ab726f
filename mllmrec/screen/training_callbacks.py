"""Callbacks that watch Lightning train a phase: its progress and the time of its steps.

They are separate from `progress` and `cost`, so that commands without training need not wait for Lightning's import.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

import lightning
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from rich.console import Console

from mllmrec.screen.progress import StageProgress


class TrainingProgress(ProgressBar):
    """Shows the training of a phase with `StageProgress`: optimiser steps, rate, time left and logged values.

    Args:
        stage: the name of the phase, as shown.
        shown: names of logged values to show if present, in this order; if empty, all with ``prog_bar=True``.
        console: where to show; standard output by default.
    """

    def __init__(self, stage: str, shown: Iterable[str] = (), console: Console | None = None) -> None:
        super().__init__()
        self.stage = stage
        self.shown = tuple(shown)
        self.console = console
        self._progress: StageProgress | None = None
        self._enabled = True

    def disable(self) -> None:
        """Show nothing (Lightning calls this on all processes but the first)."""
        self._enabled = False

    def enable(self) -> None:
        """Show again."""
        self._enabled = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the bar."""
        if not self._enabled:
            return
        # A phase of this package knows its updates; one batch may hold several.
        steps = getattr(pl_module, "updates", None) or trainer.estimated_stepping_batches
        total = int(steps) - trainer.global_step if 0 < steps < float("inf") else None
        self._step = trainer.global_step
        self._progress = StageProgress(self.stage, total, console=self.console).__enter__()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Advance by the optimiser steps taken since the last batch."""
        if self._progress is None:
            return
        logged = trainer.callback_metrics if self.shown else trainer.progress_bar_metrics
        names = self.shown or tuple(logged)
        note = " ".join(f"{name} {float(logged[name]):.4g}" for name in names if name in logged)
        self._progress.advance(trainer.global_step - self._step, note)
        self._step = trainer.global_step

    def _close(self) -> None:
        if self._progress is not None:
            self._progress.__exit__(None, None, None)
            self._progress = None

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close the bar."""
        self._close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Give the terminal back before the traceback is printed."""
        self._close()


class StepTimer(lightning.Callback):
    """Times the steps of the phase that a Trainer trained last, without the reading of its batches."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.earlier = 0.0  # seconds of the phase in an earlier attempt at the job

    def begin(self) -> None:
        """Forget an earlier phase."""
        self.seconds, self.earlier = [], 0.0

    def on_train_batch_start(self, *args: object) -> None:
        """A step begins."""
        self._begun = _now()

    def on_train_batch_end(self, *args: object) -> None:
        """A step ends."""
        self.seconds.append(_now() - self._begun)


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()
