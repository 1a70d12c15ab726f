"""`run.log`: everything that a job logs, from its first line on."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from logging.handlers import MemoryHandler
from pathlib import Path

from mllmrec.config.secret_values import redacted

# What attempts after the first one log, and `resumptions` finds again.
GOES_ON = "goes on from an earlier attempt in this folder"
GOES_ON_AT = "%s: goes on at step %d"
OTHER_CODE = "goes on, but the code of mllmrec or a library has changed since the run began"
_AT = re.compile(r": (.+): goes on at step (\d+)$")
_MOST_HELD = 100_000  # lines
_FOR_DEVELOPERS = (": FutureWarning:", ": DeprecationWarning:", ": PendingDeprecationWarning:")


class RunLog:
    """Collects log records and writes them to a new file.

    Args:
        path: the file; an earlier file stays as it is until `open`.
        level: the lowest level to collect.
    """

    def __init__(self, path: Path, level: int = logging.INFO) -> None:
        self.path, self.level = path, level
        self._held = MemoryHandler(_MOST_HELD, flushLevel=logging.CRITICAL + 1)
        self._held.setLevel(level)

    def open(self, adds: bool = False) -> None:
        """Start the file with the collected records, and write to it from now on; a second call does nothing.

        Args:
            adds: whether to add to an earlier file instead.
        """
        if self._held.target is not None:
            return
        handler = _LogFile(self.path, "a" if adds else "w", encoding="utf-8")
        handler.setFormatter(_Redacting("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        self._held.setTarget(handler)
        self._held.capacity = 1
        self._held.flush()

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """Collect all log records in the block, with the values of secret environment variables blanked out.

        Meanwhile existing handlers (the screen's) show only warnings, since the screen has tables and bars. Python's own
        warnings are collected too, but notices of future changes in libraries stay off the screen.
        """
        root = logging.getLogger()
        logging.captureWarnings(True)
        level_before = root.level
        others = [(other, other.level) for other in root.handlers]
        for other, shown in others:
            other.setLevel(max(shown, logging.WARNING))
            other.addFilter(_for_the_user)
        root.setLevel(min(self.level, level_before))
        root.addHandler(self._held)
        try:
            yield
        finally:
            root.removeHandler(self._held)
            root.setLevel(level_before)
            for other, shown in others:
                other.setLevel(shown)
                other.removeFilter(_for_the_user)
            logging.captureWarnings(False)
            target = self._held.target
            self._held.close()
            if target is not None:
                target.close()
            if isinstance(target, _LogFile) and target.fault is not None:
                root.warning("%s is incomplete: %s", self.path, target.fault.strerror)


@dataclass(frozen=True)
class Resumption:
    """Where an attempt after the first one went on."""

    stage: str | None = None  # None: between two phases
    step: int = 0  # of that phase
    other_code: bool = False  # whether code or libraries had changed since the run began


def resumptions(path: Path) -> list[Resumption]:
    """The attempts after the first one that a `run.log` tells of, in order; none if there is no such file."""
    if not path.is_file():
        return []
    found: list[Resumption] = []
    other_code = False
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        if OTHER_CODE in line:
            other_code = True
        elif line.endswith(f": {GOES_ON}"):
            found.append(Resumption(other_code=other_code))
            other_code = False
        elif found and found[-1].stage is None and (at := _AT.search(line)) is not None:
            found[-1] = replace(found[-1], stage=at[1], step=int(at[2]))
    return found


class _LogFile(logging.FileHandler):
    """A log that stops if the disk refuses a line, without ending the job or printing a traceback for each line."""

    fault: OSError | None = None

    def emit(self, record: logging.LogRecord) -> None:
        if self.fault is None:
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
            return
        self.fault = error

    def close(self) -> None:
        with suppress(OSError):
            super().close()


def _for_the_user(record: logging.LogRecord) -> bool:
    """Whether the screen shows a record; future changes in libraries concern only developers."""
    return record.name != "py.warnings" or not any(kind in record.getMessage() for kind in _FOR_DEVELOPERS)


class _Redacting(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return redacted(super().format(record))
