"""A job's lock on its run folder. The job empties the folder only when it has something to write."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from mllmrec.cache import atomic_path
from mllmrec.errors import UserError
from mllmrec.ranks import the_ranks
from mllmrec.run.attempt import Attempt
from mllmrec.run.folder import RunFolder
from mllmrec.run.log import GOES_ON, RunLog
from mllmrec.run.settings import read_settings
from mllmrec.screen.console import relative

log = logging.getLogger(__name__)

_LOCK = ".lock"


class JobFolder:
    """A run folder that this job holds.

    An earlier finished run in the folder stays complete until `begin`: its files, its configuration and its log.

    Args:
        folder: a folder that this job has locked (`alone_in`).
        cfg: the job's configuration.
        attempt: what another attempt at this job must agree with; None for a job that always starts anew.
        goes_on: whether an earlier attempt at this job left its results so far in the folder.
    """

    def __init__(
        self, folder: RunFolder, cfg: DictConfig, attempt: Attempt | None = None, goes_on: bool = False
    ) -> None:
        self.folder, self._cfg = folder, cfg
        self.attempt, self.goes_on = attempt, goes_on
        self._log = RunLog(folder.run_log_path)

    @contextmanager
    def working(self) -> Iterator[None]:
        """Log the block to `run.log`; if it fails, write the reason to `failed.json`."""
        with self._log.collecting():
            if not self.folder.is_finished:
                self._describe()
            try:
                yield
            except BaseException as error:
                self.folder.fail(error)
                raise

    def begin(self) -> None:
        """Remove what an earlier run left in the folder, unless this job goes on from it.

        Call it after everything that could still refuse the job.
        """
        if self.goes_on:
            log.info(GOES_ON)
            self.folder.go_on()
        else:
            self.folder.start_afresh()
        self._describe()
        if self.attempt is not None and the_ranks().leads:
            self.attempt.begin()

    def _describe(self) -> None:
        """Begin the log and write Hydra's own files, which Hydra itself would write too early."""
        self._log.open(adds=self.goes_on)
        hydra = HydraConfig.get()
        for name, config in (
            ("config", self._cfg),
            ("hydra", OmegaConf.create({"hydra": hydra})),
            ("overrides", hydra.overrides.task),
        ):
            with atomic_path(self.folder.hydra_path / f"{name}.yaml") as temporary:
                OmegaConf.save(config, temporary)


@contextmanager
def alone_in(folder: RunFolder, wait: bool = False) -> Iterator[None]:
    """Keep other jobs out of ``folder`` until the block ends. A killed job releases its lock.

    Args:
        folder: the run's folder.
        wait: whether to wait until another job releases the folder.

    Raises:
        UserError: another job holds the folder, and ``wait`` is false.
    """
    lock = FileLock(folder.path / _LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if not wait:
            raise UserError(
                f"{relative(folder.path)}: another job is writing in this folder; wait for its end, or choose another "
                "hydra.run.dir"
            ) from None
        log.warning("%s: waiting for another job in this folder", relative(folder.path))
        lock.acquire()
    except NotImplementedError:
        log.warning("%s: its file system has no locks; start no second job in it", relative(folder.path))
    try:
        yield
    finally:
        lock.release()  # has no effect if it was never held


def unfinished(folder: RunFolder) -> str | None:
    """Why there is no finished run in ``folder``, in words; None if there is one."""
    if folder.is_finished:
        return None
    if _is_held(folder):
        return "it is still running"
    failure = folder.failure()
    return "it was killed" if failure is None else f"it ended early: {failure}"


def rankings_alone(folder: RunFolder) -> str | None:
    """Why the folder holds rankings without weights and rollouts, as a sentence; None for the folder of a run."""
    if folder.resolved_config_path.is_file() or not folder.evaluated_config_path.is_file():
        return None
    asked, described = (folder.hydra_path / f"{name}.yaml" for name in ("config", "hydra"))
    settings: list[Any] = [
        OmegaConf.to_container(read_settings(file)) if file.is_file() else {} for file in (asked, described)
    ]
    where = "the run itself has them"
    with suppress(AttributeError, KeyError, TypeError):  # files that hold something else
        place = os.path.normpath(Path(settings[1]["hydra"]["runtime"]["cwd"]) / settings[0]["run"])
        where = f"the run itself, {' '.join(place.split())}, has them"
    return f"mllmrec.evaluate wrote this folder, which has rankings without weights and rollouts; {where}"


def _is_held(folder: RunFolder) -> bool:
    path = folder.path / _LOCK
    if not path.exists():
        return False
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    except (OSError, NotImplementedError):
        return False  # a folder that is not writable or has no locks
    lock.release()
    return False


def refuse_finished(folder: RunFolder, overwrite: bool) -> None:
    """Protect a finished run from being replaced by accident.

    Raises:
        UserError: the folder holds a finished run, and ``overwrite`` is false.
    """
    if folder.is_finished and not overwrite:
        raise UserError(
            f"{relative(folder.path)} holds a finished run: choose another hydra.run.dir, or replace the run with "
            "overwrite=true"
        )
