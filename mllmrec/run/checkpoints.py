"""Checkpoints of a phase in training: files that are whole or not used, of which the latest few are kept."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mllmrec.cache import atomic_path, file_fingerprint, write_json

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Schedule:
    """When checkpoints are written; ``checkpoint`` in the configuration."""

    minutes: float | None = 10.0  # between two checkpoints
    steps: int | None = None  # likewise; both None: only where a signal ends the phase
    keep: int = 2  # the latest ones that stay
    grace: float = 20.0  # seconds that a step may still take after a signal


@dataclass(frozen=True)
class Checkpoint:
    """The state of a phase between two of its steps."""

    path: Path
    step: int  # steps that are done


class Checkpoints:
    """The checkpoints of one phase of one run.

    Beside every checkpoint stands a file with its hash and its job, which is written last. So a checkpoint that was cut off,
    whose bytes changed later, or that was copied from another run, is known as such, and the one before it is used.
    """

    def __init__(self, folder: Path, keep: int = 2, job: str | None = None) -> None:
        """Take the folder.

        Args:
            folder: created with the first checkpoint.
            keep: how many of the latest ones stay.
            job: fingerprint of what trains; None: checkpoints of any run count.
        """
        self.folder, self.keep, self.job = folder, keep, job

    def save(self, step: int, write: Callable[[Path], None]) -> Checkpoint:
        """Add a checkpoint.

        Args:
            step: steps that are done.
            write: writes the file at the path that it is given.

        Raises:
            OSError: the disk cannot take it; the earlier ones stay.
        """
        path = self.folder / f"step-{step:09d}.ckpt"
        with atomic_path(path) as temporary:
            write(temporary)
            content = file_fingerprint(temporary)
        write_json(_seal(path), {"step": step, "content": content, "job": self.job})
        for _, older in self._all()[self.keep :]:
            _remove(older)
        return Checkpoint(path, step)

    def latest(self) -> Checkpoint | None:
        """The latest whole checkpoint; None if there is none. Damaged ones are named in the log."""
        for step, path in self._all():
            fault = _fault(path, step, self.job)
            if fault is None:
                return Checkpoint(path, step)
            log.warning("%s is not used: %s", path, fault)
        return None

    def clear(self) -> None:
        """Remove all of them."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _all(self) -> list[tuple[int, Path]]:
        """Steps and paths, the latest first."""
        found = [(int(path.stem.removeprefix("step-")), path) for path in self.folder.glob("step-*.ckpt")]
        return sorted(found, reverse=True)


def _seal(path: Path) -> Path:
    return path.with_suffix(".json")


def _fault(path: Path, step: int, job: str | None) -> str | None:
    """What is wrong with a checkpoint; None if nothing is wrong."""
    try:
        sealed = json.loads(_seal(path).read_text(encoding="utf-8"))
        if sealed["step"] != step:
            return f"{_seal(path).name} is about step {sealed['step']}"
        # Earlier versions noted no job.
        if job is not None and sealed.get("job") not in (None, job):
            return "it is of a run with other settings"
        if sealed["content"] != file_fingerprint(path):
            return "its content is not as it was written"
    except FileNotFoundError:
        return "it was not written to its end"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{_seal(path).name}: {error}"
    return None


def _remove(path: Path) -> None:
    _seal(path).unlink(missing_ok=True)
    path.unlink(missing_ok=True)
