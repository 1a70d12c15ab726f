"""The exceptions that users are meant to read."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from pathlib import Path


class UserError(Exception):
    """Wrong use or wrong input: the message says what, where (file, line, id) and what to do.

    The command line prints it on one line without a traceback and exits with status 2. It treats disk errors the same way
    (`mllmrec.errors.disk`). Every other exception is a defect of this package and keeps its traceback.
    """


class ConfigError(UserError):
    """Every fault found in a configuration, reported together so that one run shows them all."""

    def __init__(self, faults: Sequence[str]) -> None:
        self.faults = list(faults)
        head = (
            "the configuration has a fault"
            if len(self.faults) == 1
            else f"the configuration has {len(self.faults)} faults"
        )
        super().__init__(
            f"{head}: " + "; ".join(self.faults)
            if len(self.faults) == 1
            else "\n  - ".join([head + ":", *self.faults])
        )

    def __reduce__(self) -> tuple[type, tuple[list[str]]]:
        # Python would otherwise rebuild an exception from another process from its message.
        return type(self), (self.faults,)


def choices(names: Sequence[str]) -> str:
    """Format valid names for an error message: ``a, b or c``."""
    ordered = sorted(names)
    if len(ordered) < 2:
        return "".join(ordered)
    return ", ".join(ordered[:-1]) + " or " + ordered[-1]


def failure(error: BaseException) -> str:
    """What failed and where: ``KeyError: 'x'; mine.py, line 3``, the last place outside installed libraries."""
    message = " ".join(str(error).split())
    places = traceback.extract_tb(error.__traceback__)
    own = [place for place in places if "site-packages" not in place.filename] or places
    where = f"; {Path(own[-1].filename).name}, line {own[-1].lineno}" if own else ""
    return f"{type(error).__name__}{f': {message}' if message else ''}{where}"
