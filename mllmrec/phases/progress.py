"""How far a phase has come, for a later attempt at the same job."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from lightning.pytorch.loggers import Logger

from mllmrec.phases.inputs import PhaseInputs
from mllmrec.run.log import GOES_ON_AT
from mllmrec.run.progress import SavedProgress, readable
from mllmrec.stopping import patient
from mllmrec.store.plain import plain, restored, write_plain

log = logging.getLogger(__name__)


class Resumable(Protocol):
    """A phase whose state can be saved between two steps; every `PhaseModule` is one."""

    def progress(self) -> dict[str, Any]:
        """The state, for `mllmrec.store.plain.plain`."""
        ...

    def take_up(self, progress: Mapping[str, Any]) -> None:
        """Go on from what `progress` returned."""

    def save_files(self) -> None:
        """Bring the files that grow with the steps up to date."""


class PhaseProgress(SavedProgress):
    """Saves beside the weights the parts' state, answers that a later phase learns, and the cost so far."""

    def __init__(self, inputs: PhaseInputs, module: Resumable) -> None:
        """Take the phase."""
        super().__init__(inputs.phase.name, inputs.checkpoints, inputs.job.schedule)
        self.inputs, self.module = inputs, module
        self.draws_alike = inputs.phase.kind.data == "sequences"
        policy = inputs.job.policy
        self._read_before = (policy.prompts_read, policy.prompt_tokens_read)
        self._shared = {"builder": inputs.job.prepared.builder}  # made anew by each attempt

    def state_dict(self) -> dict[str, Any]:
        """See `SavedProgress`."""
        job, policy = self.inputs.job, self.inputs.job.policy
        return super().state_dict() | {
            "module": plain(self.module.progress(), self._shared),
            "drawn": plain(job.drawn.get(self.name, []), self._shared),
            "step_seconds": list(job.timer.seconds),
            "prompts": policy.prompts_read - self._read_before[0],
            "prompt_tokens": policy.prompt_tokens_read - self._read_before[1],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `SavedProgress`."""
        super().load_state_dict(state)
        job, policy = self.inputs.job, self.inputs.job.policy
        trust = self.inputs.trust
        with readable(self.inputs.checkpoints.folder):
            self.module.take_up(restored(state["module"], self._shared, trust))
            drawn = restored(state["drawn"], self._shared, trust)
        if drawn:
            job.drawn[self.name] = drawn
        job.timer.earlier, job.timer.seconds = self.earlier, list(state["step_seconds"])
        policy.prompts_read += state["prompts"]
        policy.prompt_tokens_read += state["prompt_tokens"]

    def save_files(self) -> None:
        """See `SavedProgress`."""
        super().save_files()
        self.module.save_files()


class PracticeProgress(PhaseProgress):
    """The same for a phase without a Trainer, whose steps are a loop of its own."""

    @contextmanager
    def saving(self, loggers: Sequence[Logger]) -> Iterator[None]:
        """Take up the checkpoint, if there is one, and let signals wait for the end of a step.

        Args:
            loggers: the phase's.

        Raises:
            UserError: the checkpoint holds what no checkpoint of this package holds.
        """
        self.loggers = loggers
        if self.begun is not None:
            log.info(GOES_ON_AT, self.name, self.begin)
            with readable(self.begun.path):
                kept = torch.load(self.begun.path, weights_only=True)
            self.load_state_dict(kept)
            self.rows_go_on(self.begin)
        with patient(self.schedule.grace):
            yield

    def ended(self, step: int) -> None:
        """Save the end of the phase, which trained no weights that could be kept instead."""
        self._save(step)

    def _write(self, path: Path) -> None:
        write_plain(self.state_dict(), path)
