"""Packages that a plain install does not bring."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from mllmrec.errors import UserError


@contextmanager
def extra(name: str, needed_by: str) -> Iterator[None]:
    """In this block a missing package is told with the command that installs it.

    Args:
        name: of the extra in pyproject.toml.
        needed_by: what needs it, as in "the service needs".

    Raises:
        UserError: a package of others is missing.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("mllmrec"):
            raise
        raise UserError(
            f"{error.name} is not installed, which {needed_by}: pip install 'mllmrec[{name}]'"
        ) from error
