"""Where logged steps go: always `log.csv`, and TensorBoard or Weights & Biases when asked for.

One object serves all stages of a job (``hydra.utils.instantiate(cfg.logger)``), gives the loggers of each stage,
and is closed at the end, so that the jobs of a multirun do not share a run.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mllmrec.errors import UserError
from mllmrec.run_folder import RunFolder

# A configuration is checked without Lightning, whose import takes seconds.
if TYPE_CHECKING:
    from lightning.pytorch.loggers.logger import Logger


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
        """The loggers of one stage, `mllmrec.csv_log.CsvLog` first, to be given to its Trainer."""
        from mllmrec.csv_log import CsvLog

        return [CsvLog(folder.log_path, stage, folder.seconds), *self._more(folder, stage)]

    def _more(self, folder: RunFolder, stage: str) -> list[Logger]:
        return []

    def log_results(self, metrics: Mapping[str, Any]) -> None:
        """Hand the final numbers of every stage (the ``stages`` section of `metrics.json`) to services that show them."""

    def close(self, failed: bool = False) -> None:
        """End the job's run; ``failed`` when it did not come to its end."""


class TensorBoardLoggers(RunLoggers):
    """`log.csv` and TensorBoard event files, one folder a stage, under ``tensorboard/`` in the run folder."""

    def _more(self, folder: RunFolder, stage: str) -> list[Logger]:
        from lightning.pytorch.loggers import TensorBoardLogger

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
        from lightning.pytorch.loggers import WandbLogger

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

    def close(self, failed: bool = False) -> None:
        """Finish the run, which wandb then shows as failed or finished; the next job of a multirun starts its own."""
        if self._run is not None:
            self._run.finish(exit_code=int(failed))
            self._run = None
