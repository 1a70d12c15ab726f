"""Hydra callback around every job of a sweep, in the process that runs the job."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from mllmrec.errors.disk import user_error_behind
from mllmrec.sweeping.local import claim_device, end_with_parent
from mllmrec.sweeping.names import register_job_name

# Every process that runs jobs imports this module before any job asks for its folder.
register_job_name()

ENDED = "ended.jsonl"  # one line for each job that finished or failed, in the sweep's folder


class SweepCallback(Callback):
    """Ties jobs to the sweep that started them, gives each process a device, and records which jobs ended.

    Args:
        devices: values for ``CUDA_VISIBLE_DEVICES``, one for each process; empty to leave the variable alone.
        slots: processes at once; if there are more processes than devices, some share one.
    """

    def __init__(self, devices: Sequence[int | str] = (), slots: int = 1) -> None:
        self.devices, self.slots = [str(device) for device in devices], slots
        self._started = 0.0

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Before the first job, in the process that launches them."""
        end_with_parent()

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Before a job, in its process."""
        end_with_parent()
        (Path(config.hydra.sweep.dir) / ENDED).touch()
        if self.devices:
            claim_device(Path(config.hydra.sweep.dir), self.devices, self.slots)
        self._started = time.monotonic()

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """After a job, in its process."""
        from mllmrec.run.folder import RunFolder

        folder = RunFolder(config.hydra.runtime.output_dir)
        # Asking a failed job for its value would raise.
        value = job_return._return_value
        failed = job_return.status == JobStatus.FAILED
        if failed:
            # If its checks refused a job, nothing is written yet.
            folder.fail(value)
            if user_error_behind(value) is None:
                traceback.print_exception(value)
        ended = {
            "folder": str(folder.path),
            "error": str(user_error_behind(value) or value) or type(value).__name__ if failed else None,
            "objective": None if failed else value,
            "seconds": round(time.monotonic() - self._started, 1),
        }
        with (Path(config.hydra.sweep.dir) / ENDED).open("ab", buffering=0) as stream:
            stream.write((json.dumps(ended) + "\n").encode())
