"""Progress of work that takes more than a few seconds: a bar in a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from mllmrec.screen.console import make_console
from mllmrec.stopping import check_stopped

T = TypeVar("T")
PLAIN_EVERY_SECONDS = 10.0


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"


class StageProgress:
    """Progress of one piece of work, as a context manager: name, bar, count, rate, time left and a note.

    In a terminal it is a rich bar. Elsewhere (CI, a file) it prints one line about every ten seconds and one at
    the end, so that a log shows that the run is alive.

    Args:
        stage: the name of the work, as shown.
        total: number of steps; None if unknown.
        unit: the unit of the steps.
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
        self._shown = 0  # the value of ``done`` in the last plain line
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
        """Count ``steps`` more; ``note`` (a loss, a reward) follows the time left until another note replaces it.

        Raises:
            Stopped: a signal asked the command to end, and some code suppressed the signal's exception.
        """
        check_stopped()
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
        self._line_at, self._shown = self._clock(), self.done
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
        elif self.done and self.done != self._shown:
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
