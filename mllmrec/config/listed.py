"""Folders with commas between them, as people type them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def listed(arguments: Sequence[str], name: str) -> list[str]:
    """Turn ``runs=A,B`` into a list; Hydra itself would read it as a sweep over A and B.

    A path that exists as typed is one folder even if it has commas, since multirun names folders after overrides.

    Args:
        arguments: those of the command line.
        name: the key, such as ``runs``.
    """
    result = []
    for argument in arguments:
        key, _, value = argument.partition("=")
        if key == name and value and value[0] not in "['\"":
            folders = [value] if Path(value).exists() else [part for part in value.split(",") if part]
            argument = f"{name}=[" + ",".join("'" + part.replace("'", "\\'") + "'" for part in folders) + "]"
        result.append(argument)
    return result
