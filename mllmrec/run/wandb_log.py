"""The steps of a job's phases in its Weights & Biases run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning.pytorch.loggers import WandbLogger

from mllmrec.run.service_log import ServiceStages


class WandbLog(WandbLogger):
    """Logs one phase: its name prefixes its metrics, and its step 0 is the last step of the phase before it.

    Args:
        stages: the job's phases so far.
        stage: this one.
        run: the job's wandb run.
    """

    LOGGER_JOIN_CHAR = "/"

    def __init__(self, stages: ServiceStages, stage: str, run: Any) -> None:
        super().__init__(experiment=run, prefix=stage, save_dir=stages.log_csv.parent, project=run.project)
        self.stages, self.first_step = stages, stages.last_step

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log metrics of a step of this phase."""
        if step is not None:
            step += self.first_step
            self.stages.last_step = max(self.stages.last_step, step)
        super().log_metrics(metrics, step)
