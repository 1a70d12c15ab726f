"""Finds what a ``_target_`` names, and says why it is no class."""

from __future__ import annotations

import pkgutil
import pydoc
from typing import Any

from mllmrec.config.messages import nearest
from mllmrec.stopping import Stopped


def located(target: str) -> Any:
    """What ``package.module.Class`` names; None: nothing.

    Raises:
        pydoc.ErrorDuringImport: its module fails when imported.
    """
    try:
        return pydoc.locate(target)
    except pydoc.ErrorDuringImport as error:
        if isinstance(error.value, (Stopped, KeyboardInterrupt)):
            # The command was stopped while it imported the module; the module itself did not fail.
            raise error.value from None
        raise


def why_no_class(target: str) -> str:
    """Which part of ``package.module.Class`` does not exist, or what it is if it is no class."""
    found = pydoc.locate(target)
    if found is not None:
        return f"it is a {type(found).__name__}, not a class; give the full path of a class, as in package.module.Class"
    first, *others = target.split(".")
    if not others:
        return "no such class; give its full path, as in package.module.Class"
    owner, path = pydoc.locate(first), first
    if owner is None:
        return f"no package {first} is found; start python -m in the folder that holds {first}/, or install the package"
    for name in others:
        inside = pydoc.locate(f"{path}.{name}")
        if inside is None:
            known = [*dir(owner), *(one.name for one in pkgutil.iter_modules(getattr(owner, "__path__", [])))]
            return f"no such class: {path} has no {name}{nearest(name, known)}"
        owner, path = inside, f"{path}.{name}"
    return "no such class; give its full path, as in package.module.Class"
