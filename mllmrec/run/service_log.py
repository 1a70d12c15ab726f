"""What services that show many runs have in common: one run per job, and the steps of its phases one after the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

from mllmrec.run.log_rows import read_log

# Takes named values, the step of the phase and the step of the whole job.
Write = Callable[[dict[str, float], int, int], None]


class ServiceStages:
    """The phases of one job. On the job's own axis each phase counts on from the end of the one before it.

    Phases that an earlier job trained have no logger; their steps come from `log.csv`.

    Args:
        make: makes the logger of a phase.
        log_csv: the job's `log.csv`.
        goes_on: whether an earlier attempt at the job logged its phases in the same run.
    """

    def __init__(
        self, make: Callable[[ServiceStages, str], Logger], log_csv: Path, goes_on: bool = False
    ) -> None:
        self.make, self.log_csv = make, log_csv
        self.last_step = 0  # of the whole job
        self._logged: set[str] = set()
        self._before = {row["stage"] for row in self._rows()} if goes_on else set[str]()

    def begin(self, stage: str) -> Logger:
        """The logger of the next phase."""
        self.catch_up(but=stage)
        self._logged.add(stage)
        return self.make(self, stage)

    def catch_up(self, but: str | None = None) -> None:
        """Log the phases in `log.csv` that had no logger, except ``but``."""
        rows = self._rows()
        for stage in dict.fromkeys(row["stage"] for row in rows):
            if stage == but or stage in self._logged:
                continue
            self._logged.add(stage)
            own = [row for row in rows if row["stage"] == stage]
            if stage in self._before:
                self.last_step += max(int(row["step"]) for row in own)
                continue
            logger = self.make(self, stage)
            for row in own:
                values = {name: float(row[name]) for name in row.keys() - {"stage", "step", "seconds"}}
                logger.log_metrics(values, int(row["step"]))

    def _rows(self) -> list[dict[str, Any]]:
        return read_log(self.log_csv) if self.log_csv.exists() else []


class ServiceLog(Logger):
    """Logs one phase: its name prefixes its metrics, and its step 0 is the last step of the phase before it.

    Args:
        stages: the job's phases so far.
        stage: this one.
        write: sends values to the service.
    """

    def __init__(self, stages: ServiceStages, stage: str, write: Write) -> None:
        super().__init__()
        self.stages, self.stage, self.first_step = stages, stage, stages.last_step
        self._write = write

    @property
    def name(self) -> str:
        """The job's folder."""
        return self.stages.log_csv.parent.name

    @property
    def version(self) -> str:
        """The phase."""
        return self.stage

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the run has the resolved configuration."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log metrics of a step of this phase."""
        own = step or 0
        whole = own + self.first_step
        self.stages.last_step = max(self.stages.last_step, whole)
        self._write({f"{self.stage}/{name}": float(value) for name, value in metrics.items()}, own, whole)
