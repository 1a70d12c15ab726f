"""Logged values of a row's runs over the steps of one phase, averaged over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from mllmrec.reporting.rows import Row
from mllmrec.reporting.runs import Run

SMOOTHED_POINTS = 20  # noisy values are drawn as running means over 1/20 of a phase


@dataclass(frozen=True)
class Series:
    """One logged quantity of one row in one phase; N steps."""

    steps: np.ndarray  # (N,)
    mean: np.ndarray  # (N,) over seeds
    low: np.ndarray  # (N,) smallest over seeds
    high: np.ndarray  # (N,) largest over seeds


def read_log(run: Run) -> pd.DataFrame:
    """The run's log.csv; an empty table if nothing was logged (classical baselines)."""
    path = run.path / "log.csv"
    if not path.exists():
        return pd.DataFrame(columns=["stage", "step"])
    return pd.read_csv(path, dtype={"stage": str})


class Logs:
    """The logs of some rows, each read once."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._logs = {row.label: [read_log(run) for run in row.runs] for row in rows}

    def stages(self, column: str) -> list[str]:
        """The phases in which any row logged ``column``, in the order in which they ran."""
        found: dict[str, None] = {}
        for logs in self._logs.values():
            for log in logs:
                if column in log:
                    found.update(dict.fromkeys(log.loc[log[column].notna(), "stage"]))
        first = ["warmup", "sft"]
        return sorted(found, key=lambda stage: first.index(stage) if stage in first else len(first))

    def series(self, row: Row, stage: str, column: str, smoothed_points: int = 0) -> Series | None:
        """``column`` of a row in a phase, at the steps that all its seeds logged; None if there are no such steps.

        Args:
            row: one of the rows.
            stage: a phase's name.
            column: a column of log.csv.
            smoothed_points: replace each seed's values by a running mean over 1 / ``smoothed_points`` of them;
                0 leaves them as they are.
        """
        columns = [column for _, column in self._columns(row, stage, column, smoothed_points)]
        if len(columns) < len(row.runs):
            return None
        joined = pd.concat(columns, axis=1, join="inner").sort_index()
        if joined.empty:
            return None
        values = joined.to_numpy(dtype=float)
        steps = joined.index.to_numpy(dtype=float)
        return Series(steps, values.mean(axis=1), values.min(axis=1), values.max(axis=1))

    def runs(self, row: Row, stage: str, column: str, smoothed_points: int = 0) -> list[tuple[Run, Series]]:
        """``column`` of each run of a row that logged it in a phase; the arguments are those of `series`."""
        found = []
        for run, logged in self._columns(row, stage, column, smoothed_points):
            if len(logged):
                values = logged.sort_index()
                mean = values.to_numpy(dtype=float)
                found.append((run, Series(values.index.to_numpy(dtype=float), mean, mean, mean)))
        return found

    def _columns(
        self, row: Row, stage: str, column: str, smoothed_points: int
    ) -> list[tuple[Run, pd.Series]]:
        columns = []
        for run, log in zip(row.runs, self._logs[row.label], strict=True):
            if column not in log:
                continue
            logged = log.loc[(log["stage"] == stage) & log[column].notna()].set_index("step")[column]
            if smoothed_points:
                window = max(1, len(logged) // smoothed_points)
                logged = logged.rolling(window, min_periods=1, center=True).mean()
            columns.append((run, logged))
        return columns
