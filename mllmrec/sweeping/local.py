"""Jobs on this machine: a device for each, and no job outlives the command that started it."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from filelock import BaseFileLock, FileLock, Timeout
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from mllmrec.config.launcher_rules import unaccounted
from mllmrec.stopping import CHILDREN_SECONDS

log = logging.getLogger(__name__)

_CLAIMED: list[BaseFileLock] = []  # this process's device, held until it ends
_watched = threading.Event()


class LocalJobs(Callback):
    """Around a multirun that joblib runs on this machine: one device for each process. `SweepCallback` does so for a sweep."""

    def __init__(self) -> None:
        self.devices: list[str] = []
        self.slots = 0  # processes at once

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Before the first job, in the process that launches them."""
        launcher = config.hydra.launcher
        if "sweep" in config.hydra.callbacks:
            return
        lost = unaccounted(str(launcher.get("_target_")))
        if lost:
            log.warning("%s", lost)
        if "JoblibLauncher" not in str(launcher.get("_target_")):
            return
        from joblib import cpu_count, effective_n_jobs

        self.slots = effective_n_jobs(launcher.n_jobs)
        self.devices = [] if config.trainer.accelerator == "cpu" else gpus()
        told = crowded("hydra.launcher.n_jobs", self.slots, len(self.devices), cpu_count())
        if told:
            log.warning("%s", told)

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Before a job, in its process."""
        if not self.slots:
            return
        end_with_parent()
        if self.devices and not _CLAIMED:
            claim_device(Path(config.hydra.sweep.dir), self.devices, self.slots)


def crowded(key: str, at_once: int, devices: int, cores: int) -> str | None:
    """What is wrong with so many jobs at once on this machine; None if nothing is.

    Args:
        key: the setting of their number.
        at_once: jobs at a time.
        devices: GPUs that they use; 0 for the CPU.
        cores: cores of the machine.
    """
    if devices:
        if at_once <= devices:
            return None
        return (
            f"{key}={at_once} on {devices} GPU{'s'[: devices > 1]}: some jobs share a GPU and its memory, and slow each other "
            f"down; {key}={devices} gives each one of its own"
        )
    if at_once > cores:
        return (
            f"{key}={at_once} on {cores} cores: jobs share a core and slow each other down; try {key}={cores}"
        )
    threads = os.environ.get("OMP_NUM_THREADS", "")
    if threads.isdecimal() and at_once > 1 and at_once * int(threads) > cores:
        return (
            f"{key}={at_once} with OMP_NUM_THREADS={threads} each on {cores} cores: more threads than cores slow each other down "
            f"several times over; unset OMP_NUM_THREADS, or set it to {max(1, cores // at_once)}"
        )
    return None


def gpus() -> list[str]:
    """The GPUs that this process may use, as ``CUDA_VISIBLE_DEVICES`` names them."""
    import torch

    count = torch.cuda.device_count()
    visible = [device.strip() for device in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")]
    return visible[:count] if visible != [""] else [str(index) for index in range(count)]


def claim_device(folder: Path, devices: Sequence[str], slots: int) -> None:
    """Give this process one device for the rest of its life: the first that no other process of the sweep has."""
    while not _CLAIMED:
        for slot in range(slots):
            lock = FileLock(folder / f".slot-{slot}")
            try:
                lock.acquire(timeout=0)
            except Timeout:
                continue
            _CLAIMED.append(lock)
            os.environ["CUDA_VISIBLE_DEVICES"] = devices[slot % len(devices)]
            return
        # A process of a killed sweep may still be running.
        time.sleep(0.5)


def end_with_parent() -> None:
    """End this process when its parent process has ended for any reason."""
    if _watched.is_set():
        return
    _watched.set()
    parent = os.getppid()

    def wait() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        # A signal lets the job record that it was stopped.
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(CHILDREN_SECONDS)
        os._exit(1)

    threading.Thread(target=wait, daemon=True, name="end_with_parent").start()
