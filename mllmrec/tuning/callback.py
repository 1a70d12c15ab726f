"""Hydra callback around a trial, in the process that runs it."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from mllmrec.sweeping.callback import SweepCallback

GIVEN_UP = "given_up"  # a file in a trial's folder: the search wants it to end
POLL_SECONDS = 0.5


class TrialCallback(SweepCallback):
    """As around a job of a sweep; and the job ends when the search gives it up, on whatever machine it runs."""

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Before a job, in its process."""
        super().on_job_start(config, **kwargs)
        end_when_there_is(Path(config.hydra.runtime.output_dir) / GIVEN_UP)


def end_when_there_is(path: Path) -> None:
    """End this process, as SIGTERM does, once a file exists."""

    def wait() -> None:
        ended = threading.Event()
        while not path.exists():
            ended.wait(POLL_SECONDS)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True, name="end_when_there_is").start()
