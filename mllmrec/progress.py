"""Progress of everything that takes more than a few seconds: a bar in a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Any, TypeVar

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from mllmrec.console import make_console

T = TypeVar("T")
PLAIN_EVERY_SECONDS = 10.0


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"


class StageProgress:
    """Progress of one stage, as a context manager: name, bar, count, rate, time left and a note.

    In a terminal it is a rich bar. Elsewhere (CI, a file) it prints one line about every ten seconds and one at
    the end, so that a log shows that the run lives.

    Args:
        stage: what is being done, as shown.
        total: how many steps; None when unknown.
        unit: what is counted.
        console: where to show; standard output by default.
        every_seconds: time between two plain lines.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        stage: str,
        total: int | None,
        unit: str = "steps",
        console: Console | None = None,
        every_seconds: float = PLAIN_EVERY_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.stage, self.total, self.unit = stage, total, unit
        self.console = console or make_console()
        self.every_seconds = every_seconds
        self.done = 0
        self._note = ""
        self._clock = clock
        self._bar: Progress | None = None

    def __enter__(self) -> StageProgress:
        self._started = self._line_at = self._clock()
        if self.console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}", markup=False),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}", markup=False, style="dim"),
                console=self.console,
            )
            self._task = self._bar.add_task(self.stage, total=self.total, rate="", note="")
            self._bar.start()
        return self

    def advance(self, steps: int = 1, note: str | None = None) -> None:
        """Count ``steps`` more; ``note`` (a loss, a reward) stands behind the time left until it is replaced."""
        self.done += steps
        self._note = self._note if note is None else note
        if self._bar is not None:
            self._bar.update(self._task, advance=steps, rate=self._rate(), note=self._note)
        elif self._clock() - self._line_at >= self.every_seconds:
            self._print_line()

    def _rate(self) -> str:
        elapsed = self._clock() - self._started
        rate = self.done / elapsed if elapsed > 0 else 0.0
        return f"{rate:,.1f} {self.unit}/s" if rate >= 1 or rate == 0 else f"{1 / rate:,.1f} s/{self.unit}"

    def _print_line(self) -> None:
        self._line_at = self._clock()
        elapsed = self._line_at - self._started
        parts = [f"{self.done:,}" if self.total is None else f"{self.done:,}/{self.total:,}", self._rate()]
        if self.total is not None and 0 < self.done < self.total:
            parts.append(f"{_clock(elapsed / self.done * (self.total - self.done))} left")
        else:
            parts.append(f"{_clock(elapsed)} elapsed")
        if self._note:
            parts.append(self._note)
        self.console.print(Text(f"{self.stage}: " + ", ".join(parts)), soft_wrap=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif self.done:
            self._print_line()


def track(
    entries: Iterable[T],
    stage: str,
    total: int | None = None,
    unit: str = "items",
    weigh: Callable[[T], int] | None = None,
    console: Console | None = None,
) -> Iterator[T]:
    """Iterate with a `StageProgress`; ``weigh`` gives the units of one entry (1 by default), such as a batch's size."""
    if total is None and weigh is None and hasattr(entries, "__len__"):
        total = len(entries)  # type: ignore[arg-type]
    with StageProgress(stage, total, unit, console) as progress:
        for entry in entries:
            yield entry
            progress.advance(1 if weigh is None else weigh(entry))


class TrainingProgress(ProgressBar):
    """Shows a Lightning stage by `StageProgress`: optimiser steps, rate, time left and what the module logs.

    Args:
        stage: what is being trained, as shown.
        shown: names of logged values to show, in this order, those present; all with ``prog_bar=True`` when empty.
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
        # A stage of ours knows its updates; a batch of it may hold several.
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
