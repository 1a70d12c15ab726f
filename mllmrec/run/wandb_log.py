"""The steps of a job's phases in its Weights & Biases run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import WandbLogger

from mllmrec.run.log_rows import read_log


class WandbStages:
    """The phases of one job. Each phase counts on from the end of the one before it, so that steps never go back.

    Phases that an earlier job trained have no logger; their steps come from `log.csv`.

    Args:
        run: the job's wandb run.
        log_csv: the job's `log.csv`.
        goes_on: whether an earlier attempt at the job logged its phases in the same wandb run.
    """

    def __init__(self, run: Any, log_csv: Path, goes_on: bool = False) -> None:
        self.run, self.log_csv = run, log_csv
        self.last_step = 0  # of the whole job
        self._logged: set[str] = set()
        self._before = {row["stage"] for row in self._rows()} if goes_on else set[str]()

    def begin(self, stage: str) -> WandbLog:
        """The logger of the next phase."""
        self.catch_up(but=stage)
        self._logged.add(stage)
        return WandbLog(self, stage)

    def catch_up(self, but: str | None = None) -> None:
        """Log the phases in `log.csv` that had no logger, except ``but``."""
        rows = self._rows()
        for stage in dict.fromkeys(row["stage"] for row in rows):
            if stage == but or stage in self._logged:
                continue
            self._logged.add(stage)
            if stage in self._before:
                self.last_step += max(int(row["step"]) for row in rows if row["stage"] == stage)
                continue
            logger = WandbLog(self, stage)
            for row in rows:
                if row["stage"] == stage:
                    values = {name: row[name] for name in row.keys() - {"stage", "step", "seconds"}}
                    logger.log_metrics(
                        {name: float(value) for name, value in values.items()}, int(row["step"])
                    )

    def _rows(self) -> list[dict[str, Any]]:
        return read_log(self.log_csv) if self.log_csv.exists() else []


class WandbLog(WandbLogger):
    """Logs one phase: its name prefixes its metrics, and its step 0 is the last step of the phase before it."""

    LOGGER_JOIN_CHAR = "/"

    def __init__(self, stages: WandbStages, stage: str) -> None:
        super().__init__(
            experiment=stages.run, prefix=stage, save_dir=stages.log_csv.parent, project=stages.run.project
        )
        self.stages, self.first_step = stages, stages.last_step

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log metrics of a step of this phase."""
        if step is not None:
            step += self.first_step
            self.stages.last_step = max(self.stages.last_step, step)
        super().log_metrics(metrics, step)
