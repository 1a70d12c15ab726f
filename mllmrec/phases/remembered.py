"""The answers of a finished phase that a later phase learns, kept for another attempt at the job."""

from __future__ import annotations

from pathlib import Path

import torch

from mllmrec.cache import atomic_path
from mllmrec.phases.inputs import PhaseInputs
from mllmrec.run.progress import readable
from mllmrec.store.plain import plain, restored, write_plain


def note(inputs: PhaseInputs) -> None:
    """Keep what the phase drew, if a later phase learns it."""
    if inputs.remembers:
        shared = {"builder": inputs.job.prepared.builder}
        with atomic_path(_path(inputs)) as temporary:
            write_plain(plain(inputs.job.drawn.get(inputs.phase.name, []), shared), temporary)


def recall(inputs: PhaseInputs) -> None:
    """Take what an earlier attempt kept with `note`.

    Raises:
        UserError: its file cannot be read.
    """
    if inputs.remembers:
        shared = {"builder": inputs.job.prepared.builder}
        with readable(_path(inputs)):
            kept = torch.load(_path(inputs), weights_only=True)
            inputs.job.drawn[inputs.phase.name] = restored(kept, shared, inputs.trust)


def _path(inputs: PhaseInputs) -> Path:
    return inputs.job.folder.resume_path / f"{inputs.phase.name}-answers.pt"
