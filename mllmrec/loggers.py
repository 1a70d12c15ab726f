"""Where logged steps go: always `log.csv`, and TensorBoard or Weights & Biases when asked for.

One object serves all stages of a job (``hydra.utils.instantiate(cfg.logger)``), gives the loggers of each stage,
and is closed at the end, so that the jobs of a multirun do not share a run.
"""

from __future__ import annotations

import csv
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

from mllmrec.cache import atomic_path
from mllmrec.errors import UserError
from mllmrec.run_folder import RunFolder

FLUSH_ROWS, FLUSH_SECONDS = 50, 10.0


class CsvLog(Logger):
    """A Lightning logger that merges the stages of a run into one `log.csv`.

    A row is one (stage, step): values logged for it in several calls share the row, and a step that a resumed run
    repeats replaces its row. The header is the union of all columns. The file is replaced whole, every 50 new
    rows, every 10 seconds of logging, and when the trainer ends or fails.

    Args:
        path: the CSV file; rows of other stages in it are kept.
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
            with self.path.open(newline="", encoding="utf-8") as stream:
                for row in csv.DictReader(stream):
                    self._rows[row["stage"], int(row["step"])] = {
                        key: value for key, value in row.items() if value != ""
                    }
        self._fresh: set[int] = set()
        self._unwritten = 0
        self._flushed_at = time.monotonic()

    @property
    def name(self) -> str:
        """The file's name."""
        return self.path.name

    @property
    def version(self) -> str:
        """The stage."""
        return self.stage

    @property
    def save_dir(self) -> str:
        """The run folder."""
        return str(self.path.parent)

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: the resolved config is in the run folder."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add values to the row of ``step``; Lightning's own ``epoch`` is kept as a column."""
        if step is None:
            raise ValueError(f"stage {self.stage} logged {', '.join(metrics)} without a step")
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

    def _write(self) -> None:
        header = list(
            dict.fromkeys(["stage", "step", "seconds", *(key for row in self._rows.values() for key in row)])
        )
        with atomic_path(self.path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, header, lineterminator="\n")
            writer.writeheader()
            writer.writerows(self._rows.values())
        self._unwritten = 0
        self._flushed_at = time.monotonic()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write what is left, whether the trainer ended or failed."""
        self._write()


@dataclass(frozen=True)
class Labels:
    """What a run is called by services that show many."""

    group: str | None  # the sweep that it belongs to
    name: str
    tags: Sequence[str]


class RunLoggers:
    """`log.csv` alone: the base of the other choices."""

    def start(self, folder: RunFolder, labels: Labels) -> None:
        """Begin the job's run, under these labels where the configuration names none."""

    def for_stage(self, folder: RunFolder, stage: str) -> list[Logger]:
        """The loggers of one stage, `CsvLog` first, to be given to its Trainer."""
        return [CsvLog(folder.log_path, stage, folder.seconds), *self._more(folder, stage)]

    def _more(self, folder: RunFolder, stage: str) -> list[Logger]:
        return []

    def log_results(self, metrics: Mapping[str, Any]) -> None:
        """Hand the final numbers of every stage (the ``stages`` section of `metrics.json`) to services that show them."""

    def close(self) -> None:
        """End the job's run."""


class TensorBoardLoggers(RunLoggers):
    """`log.csv` and TensorBoard event files, one folder a stage, under ``tensorboard/`` in the run folder."""

    def _more(self, folder: RunFolder, stage: str) -> list[Logger]:
        try:
            return [
                TensorBoardLogger(
                    save_dir=folder.path, name="tensorboard", version=stage, default_hp_metric=False
                )
            ]
        except ModuleNotFoundError as error:
            raise UserError(
                "logger=tensorboard needs tensorboard: pip install 'mllmrec[tensorboard]'"
            ) from error


class WandbLoggers(RunLoggers):
    """`log.csv` and one Weights & Biases run for the whole job, each stage's metrics prefixed by its name.

    The key is read by wandb from the environment (WANDB_API_KEY) and never from a config.

    Args:
        project: the project's name.
        entity: user or team; None for the account's default.
        group: what the runs of one experiment share; None for the sweep's name.
        name: the run's name; None for the run folder's.
        tags: labels, beside the choices of the main groups.
        offline: None for offline unless the environment has WANDB_API_KEY (or sets WANDB_MODE).
    """

    def __init__(
        self,
        project: str = "mllmrec",
        entity: str | None = None,
        group: str | None = None,
        name: str | None = None,
        tags: Sequence[str] = (),
        offline: bool | None = None,
    ) -> None:
        self.project, self.entity, self.group, self.name = project, entity, group, name
        self.tags = list(tags)
        self.offline = offline
        self._run: Any = None

    def _mode(self) -> Any:
        if self.offline is not None:
            return "offline" if self.offline else "online"
        return os.environ.get("WANDB_MODE") or ("online" if os.environ.get("WANDB_API_KEY") else "offline")

    def start(self, folder: RunFolder, labels: Labels) -> None:
        """Begin the job's run."""
        import wandb

        self._run = wandb.init(
            project=self.project,
            entity=self.entity,
            group=self.group or labels.group,
            name=self.name or labels.name,
            tags=[*self.tags, *labels.tags],
            dir=str(folder.path),
            mode=self._mode(),
            reinit="create_new",
        )
        self._run.define_metric("trainer/global_step")
        self._run.define_metric("*", step_metric="trainer/global_step", step_sync=True)

    def _more(self, folder: RunFolder, stage: str) -> list[Logger]:
        logger = WandbLogger(experiment=self._run, prefix=stage, save_dir=folder.path, project=self.project)
        logger.LOGGER_JOIN_CHAR = "/"
        return [logger]

    def log_results(self, metrics: Mapping[str, Any]) -> None:
        """Put the final numbers into the run's summary, as ``test/<stage>/<metric>``."""
        if self._run is not None:
            self._run.summary.update(
                {
                    f"test/{stage}/{name}": value
                    for stage, values in metrics.items()
                    for name, value in values.items()
                }
            )

    def close(self) -> None:
        """Finish the run; the next job of a multirun starts its own."""
        if self._run is not None:
            self._run.finish()
            self._run = None
