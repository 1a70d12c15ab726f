"""Runs the jobs of a multirun as tasks of Ray.

Ray starts a task again whose process was killed or whose node failed, and the job goes on from its checkpoint. A job that
cannot be helped in this way fails alone.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, configure_log, filter_overrides, run_job, setup_globals
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

log = logging.getLogger(__name__)


def launch(
    launcher: Any, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
) -> Sequence[JobReturn]:
    """Run one job for each entry of ``job_overrides``.

    Args:
        launcher: the `RayLauncher`.
        job_overrides: the overrides of each job.
        initial_job_idx: number of the first one.

    Returns:
        the results, in the same order.
    """
    import ray
    from ray.exceptions import RayError

    config: DictConfig = launcher.config
    setup_globals()
    configure_log(config.hydra.hydra_logging, config.hydra.verbose)
    Path(config.hydra.sweep.dir).mkdir(parents=True, exist_ok=True)
    if not ray.is_initialized():
        ray.init(**{key: value for key, value in launcher.init.items() if value is not None})
    resources = {"num_gpus": _gpus_of_a_job(config, ray.cluster_resources()), **_given(launcher.remote)}
    task = ray.remote(**resources)(_run)
    waiting = list(enumerate(job_overrides, initial_job_idx))
    running: dict[Any, int] = {}
    returned: dict[int, JobReturn] = {}
    while waiting or running:
        while waiting and (launcher.n_jobs is None or len(running) < launcher.n_jobs):
            number, overrides = waiting.pop(0)
            log.info("\t#%d : %s", number, " ".join(filter_overrides(overrides)))
            job = launcher.hydra_context.config_loader.load_sweep_config(config, list(overrides))
            with open_dict(job):
                job.hydra.job.id, job.hydra.job.num = f"{job.hydra.job.name}_{number}", number
            started = task.remote(launcher.hydra_context, job, launcher.task_function, Singleton.get_state())
            running[started] = number
        (ended,), _ = ray.wait(list(running), num_returns=1)
        number = running.pop(ended)
        try:
            returned[number] = ray.get(ended)
        except RayError as error:
            told = RuntimeError(f"job {number} of the sweep: {' '.join(str(error).split())}")
            returned[number] = JobReturn(status=JobStatus.FAILED, _return_value=told)
    return [returned[number] for number in sorted(returned)]


def _given(settings: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if value is not None}


def _gpus_of_a_job(config: DictConfig, there: dict[str, float]) -> int:
    """One GPU for each job, if Ray has any and the job may use it."""
    return int(there.get("GPU", 0) >= 1 and config.trainer.accelerator != "cpu")


def _run(
    hydra_context: HydraContext, config: DictConfig, task_function: TaskFunction, singletons: dict[Any, Any]
) -> JobReturn:
    """Run a job in a process of Ray."""
    setup_globals()
    Singleton.set_state(singletons)
    HydraConfig.instance().set_config(config)
    return run_job(
        hydra_context=hydra_context,
        task_function=task_function,
        config=config,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )
