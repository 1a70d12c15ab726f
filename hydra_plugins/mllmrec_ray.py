"""The class behind ``hydra/launcher=ray``. Hydra finds launchers in this package alone, and reads it at every start."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class RayLauncher(Launcher):
    """Runs the jobs of a multirun as tasks of Ray.

    Args:
        n_jobs: jobs at a time; None for as many as Ray has room for.
        init: arguments of ``ray.init``, where Ray does not run yet.
        remote: arguments of ``ray.remote``.
    """

    def __init__(self, n_jobs: int | None, init: Mapping[str, Any], remote: Mapping[str, Any]) -> None:
        self.n_jobs, self.init, self.remote = n_jobs, dict(init), dict(remote)

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Remember what runs a job."""
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs; return their results in the order of ``job_overrides``."""
        from mllmrec.sweeping.on_ray import launch

        return launch(self, job_overrides, initial_job_idx)
