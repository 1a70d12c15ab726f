"""Wording that the checks share."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import TYPE_CHECKING

from mllmrec.errors import choices

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails


def readable(error: BaseException) -> str:
    """An exception's message on one line."""
    return " ".join(str(error).split()) or type(error).__name__


def nearest(name: str, known: Iterable[str], most: int = 3) -> str:
    """`` (did you mean a or b?)`` with similar names and settings elsewhere that end the same; nothing if none."""
    names = list(known)
    last = name.rsplit(".", 1)[-1]
    elsewhere = [other for other in names if other.rsplit(".", 1)[-1] == last and other != name]
    close = difflib.get_close_matches(name, names, n=most, cutoff=0.7)
    found = list(dict.fromkeys([*elsewhere, *close]))[:most]
    return f" (did you mean {choices(found)}?)" if found else ""


def bound_fault(section: str, error: ErrorDetails, known: Iterable[str], reason: str | None) -> str:
    """Word one schema error as ``key=value: what is allowed``."""
    where = ".".join(map(str, error["loc"]))
    key = ".".join(part for part in (section, where) if part)
    if error["type"] == "model_type":
        return f"{key}={shown(error['input'])}: must be a section with {choices([*known])}"
    if error["type"] == "extra_forbidden":
        return f"{key}: no such setting{nearest(where, known)}; choose {choices([*known])}"
    if error["type"] == "missing":
        return f"{key} is not set: add {key}=VALUE"
    return f"{key}={shown(error['input'])}: {allowed(error['msg'])}" + (f" ({reason})" if reason else "")


_PLAINER = {
    "Value error, ": "",
    "Input should be": "must be",
    "a valid integer": "a whole number",
    "a valid number": "a number",
    "a valid string": "text",
    "a valid boolean": "true or false",
}


def allowed(message: str) -> str:
    """A message of pydantic in plainer words."""
    for theirs, ours in _PLAINER.items():
        message = message.replace(theirs, ours)
    return message


def shown(value: object) -> str:
    """A value as users type it."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
