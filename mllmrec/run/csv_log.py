"""`log.csv` of a run: a Lightning logger for all its phases."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

from mllmrec.run.log_rows import read_log, write_log

FLUSH_ROWS, FLUSH_SECONDS = 50, 10.0


class CsvLog(Logger):
    """A Lightning logger that merges the phases of a run into one `log.csv`.

    A row is one step of one phase. Values from several calls for one step share the row, and a step that a resumed run repeats
    replaces its row. The header is the union of all columns. The whole file is replaced every 50 new rows, every 10
    seconds of logging, and when the trainer ends or fails.

    Args:
        path: the CSV file; it keeps its rows of other phases.
        stage: the name written in the ``stage`` column.
        seconds: the clock of the ``seconds`` column.
    """

    def __init__(self, path: str | Path, stage: str, seconds: Callable[[], float]) -> None:
        super().__init__()
        self.path = Path(path)
        self.stage = stage
        self._seconds = seconds
        self._rows: dict[tuple[str, int], dict[str, Any]] = {}
        if self.path.exists():
            self._rows = {(row["stage"], int(row["step"])): row for row in read_log(self.path)}
        self._fresh: set[int] = set()
        self._unwritten = 0
        self._flushed_at = time.monotonic()

    @property
    def name(self) -> str:
        """The file's name."""
        return self.path.name

    @property
    def version(self) -> str:
        """The phase."""
        return self.stage

    @property
    def save_dir(self) -> str:
        """The run folder."""
        return str(self.path.parent)

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the resolved config is in the run folder."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add values to the row of ``step``; Lightning's own ``epoch`` is kept as a column."""
        if step is None:
            raise ValueError(f"phase {self.stage} logged {', '.join(metrics)} without a step")
        row = self._rows.get((self.stage, step))
        if row is None or step not in self._fresh:
            row = self._rows[self.stage, step] = {
                "stage": self.stage,
                "step": step,
                "seconds": f"{self._seconds():.3f}",
            }
            self._fresh.add(step)
            self._unwritten += 1
        row.update({key: f"{float(value):.6g}" for key, value in metrics.items()})
        if self._unwritten >= FLUSH_ROWS or time.monotonic() - self._flushed_at >= FLUSH_SECONDS:
            self._write()

    def go_on(self, step: int) -> None:
        """Forget the phase's rows after ``step``, which will be logged again, and add to the row of ``step`` itself."""
        self._rows = {
            (stage, at): row for (stage, at), row in self._rows.items() if stage != self.stage or at <= step
        }
        self._fresh.update(at for stage, at in self._rows if stage == self.stage)

    def flush(self) -> None:
        """Write the rows that are still held back. Lightning calls ``save`` after each row, which would be too often."""
        self._write()

    def _write(self) -> None:
        # A ranking after a step is logged before that step is.
        stages = list(dict.fromkeys(stage for stage, _ in self._rows))
        order = sorted(self._rows, key=lambda key: (stages.index(key[0]), key[1]))
        write_log(self.path, [self._rows[key] for key in order])
        self._unwritten = 0
        self._flushed_at = time.monotonic()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write the remaining rows, whether the trainer ended or failed."""
        self._write()
