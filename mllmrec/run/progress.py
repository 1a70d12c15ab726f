"""Training that is saved between two steps, and taken up again by a later attempt at the same job.

Lightning saves and restores weights, optimiser, schedule and the place in its loop. What it does not know is added here:
torch's global generators (dropout), the end of the log, and the time so far. All other randomness is drawn by step and
sample, so it needs no state.
"""

from __future__ import annotations

import logging
import os
import pickle
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import lightning
import torch
from lightning.pytorch.loggers import Logger

from mllmrec.errors import UserError
from mllmrec.ranks import the_ranks
from mllmrec.run.checkpoints import Checkpoints, Schedule
from mllmrec.run.csv_log import CsvLog
from mllmrec.run.log import GOES_ON_AT
from mllmrec.stopping import arrived, check_stopped, patient, watch_again

log = logging.getLogger(__name__)

_NO_STATE = (pickle.UnpicklingError,)  # what loading raises, and training does not
_NOT_OURS = (*_NO_STATE, AttributeError, EOFError, KeyError, OSError, RuntimeError, TypeError, ValueError)


class Batches(Protocol):
    """What each step of an epoch reads, as positions for a data loader."""

    def __len__(self) -> int: ...

    def __getitem__(self, step: int, /) -> Any: ...


class SavedProgress(lightning.Callback):
    """Writes checkpoints of a training, and takes up the latest one that an earlier attempt left."""

    def __init__(self, name: str, checkpoints: Checkpoints, schedule: Schedule) -> None:
        """Look for a checkpoint.

        Args:
            name: of what is trained, in messages.
            checkpoints: where they are.
            schedule: when they are written.
        """
        self.name, self.checkpoints, self.schedule = name, checkpoints, schedule
        self.begun = checkpoints.latest()
        self.begin = 0 if self.begun is None else self.begun.step  # the first step of this attempt
        self.earlier = 0.0  # seconds of earlier attempts
        self._trainer: Any = None
        self.loggers: Sequence[Logger] = ()  # of what is trained
        self._generators: dict[str, Any] | None = None  # of the checkpoint
        self.saves = True  # whether checkpoints can be written
        self.draws_alike = False  # whether all processes draw the same dropout
        self._started = self._saved_at = time.monotonic()
        self._saved_step = self.begin

    def fit(self, trainer: lightning.Trainer, module: lightning.LightningModule, loader: Any) -> None:
        """Train, from the checkpoint on if there is one; ``loader`` takes its batches from `Steps`.

        Raises:
            Stopped: a signal came; the last step is saved.
            UserError: the checkpoint holds what no checkpoint of this package holds.
        """
        path = None
        if self.begun is not None:
            path = self.begun.path
            log.info(GOES_ON_AT, self.name, self.begin)
        with patient(self.schedule.grace), readable(path, _NO_STATE):
            trainer.fit(module, loader, ckpt_path=path, weights_only=True)

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Remember who trains."""
        self._trainer, self.loggers = trainer, trainer.loggers

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Let the log go on from the checkpoint, and keep Lightning from ending the training before a step is saved."""
        watch_again()
        if self._generators is not None:
            self.rows_go_on(trainer.global_step)

    def rows_go_on(self, step: int) -> None:
        """Let the log's rows go on after a step."""
        for logger in self.loggers:
            if isinstance(logger, CsvLog):
                logger.go_on(step)

    def between(self, step: int, *, whole: bool = True) -> None:
        """Save if it is time, or if a signal wants the job to end; then it ends here.

        Args:
            step: the step that comes next.
            whole: whether Lightning can go on from here; it cannot at the start of an epoch.

        Raises:
            Stopped: a signal came.
        """
        if step == self.begin:
            if self._generators is not None:
                _set_generators(self._generators)
                self._generators = None
            return
        stopped, ranks = arrived() is not None, the_ranks()
        # Of several processes all save, and all end if a signal came to any of them.
        others_stop = ranks.any(stopped)
        due = ranks.of_leader(lambda: self._due(step)) if ranks.several else self._due(step)
        if whole and self.saves and (others_stop or due):
            self._save(step)
        if others_stop and not stopped:
            os.kill(os.getpid(), signal.SIGTERM)
            arrived()
        check_stopped()

    def state_dict(self) -> dict[str, Any]:
        """What Lightning does not know."""
        # Dropout differs between processes.
        generators = the_ranks().each(_generators)
        return {"generators": generators, "seconds": self.earlier + time.monotonic() - self._started}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up `state_dict`; the generators follow right before the first step."""
        generators, self.earlier = state["generators"], state["seconds"]
        if not isinstance(generators, list):
            generators = [generators]  # an earlier version kept those of one process alone
        # Another number of processes wrote it: one without a generator keeps its own, from the phase's start.
        known = 0 if self.draws_alike else the_ranks().rank
        self._generators = generators[known] if known < len(generators) else _generators()

    def save_files(self) -> None:
        """Bring files that grow with the steps up to date."""
        for logger in self.loggers:
            logger.flush() if isinstance(logger, CsvLog) else logger.save()

    def _due(self, step: int) -> bool:
        minutes, steps = self.schedule.minutes, self.schedule.steps
        late = minutes is not None and time.monotonic() - self._saved_at >= 60 * minutes
        return late or (steps is not None and step - self._saved_step >= steps)

    def _save(self, step: int) -> None:
        self.save_files()
        try:
            # Lightning writes in the first process alone, but all have to call it.
            if the_ranks().leads:
                self.checkpoints.save(step, self._write)
            else:
                self._write(self.checkpoints.folder)
        except TypeError as error:
            self.saves = False
            log.warning("%s: no checkpoints, so it starts again if the job is killed: %s", self.name, error)
        self._saved_at, self._saved_step = time.monotonic(), step

    def _write(self, path: Path) -> None:
        self._trainer.save_checkpoint(path)


class Steps:
    """A batch sampler of one epoch that begins at any step, and says when a step has ended and the next is not yet planned."""

    def __init__(self, batches: Batches, progress: SavedProgress) -> None:
        """Take the batches.

        Args:
            batches: of all steps.
            progress: says where to begin, and is told of each step.
        """
        self.batches, self.progress = batches, progress

    def __len__(self) -> int:
        """All steps, also those before the first one of this attempt: Lightning counts from there."""
        return len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        for step in range(self.progress.begin, len(self.batches)):
            self.progress.between(step)
            batch = self.batches[step]
            if the_ranks().several:
                the_ranks().check_same(f"batches for step {step}", [int(place) for place in batch])
            yield batch


class Epochs:
    """The same for training of several epochs, each with batches of its own."""

    def __init__(self, batches: Any, progress: SavedProgress | None) -> None:
        """Take the batches.

        Args:
            batches: has a length, the steps of an epoch, and ``of_epoch(number)``, its batches.
            progress: says where to begin, and is told of each step; None: nothing is saved.
        """
        self.batches, self.progress = batches, progress
        self._step = 0 if progress is None else progress.begin

    def __len__(self) -> int:
        """Steps of an epoch."""
        return len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        epoch, place = divmod(self._step, len(self))
        for batch in self.batches.of_epoch(epoch)[place:]:
            if self.progress is not None:
                self.progress.between(self._step, whole=self._step % len(self) > 0)
            self._step += 1
            yield batch


@contextmanager
def readable(path: Path | None, faults: tuple[type[Exception], ...] = _NOT_OURS) -> Iterator[None]:
    """In the block a file of an earlier attempt is read. No code in it runs, whoever wrote it.

    Args:
        path: of the file, or of the folder that holds it.
        faults: what reading it may raise.

    Raises:
        UserError: it holds something else, or is damaged.
    """
    try:
        yield
    except faults as error:
        first = str(error).strip().partition("\n")[0]
        raise UserError(
            f"{path} does not hold what this package writes ({first}): delete it, or start anew with resume=never"
        ) from error


def _generators() -> dict[str, Any]:
    """The states of torch's global generators."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


def _set_generators(states: Mapping[str, Any]) -> None:
    torch.set_rng_state(states["cpu"].cpu())
    if states["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all([state.cpu() for state in states["cuda"]])
