"""Wording from YAML files that a user can read and replace. Reading a file checks its keys and placeholders."""

from __future__ import annotations

import string
from collections.abc import Mapping
from dataclasses import MISSING, fields
from importlib import resources
from pathlib import Path
from typing import TypeVar

import yaml

from mllmrec.errors import UserError, choices

W = TypeVar("W")


def load_wording(
    kind: type[W], placeholders: Mapping[str, set[str]], setting: str, name: str, package: str, folder: str
) -> W:
    """A shipped wording by name, or a YAML file by path.

    Args:
        kind: a dataclass of texts; its fields are the file's keys. A field with a default may be left out.
        placeholders: for each text that is filled in, the names that may stand in braces.
        setting: the configuration key that chose the wording, for messages.
        name: the name or path that was chosen.
        package: the package that ships the wordings.
        folder: the folder in the package, with one YAML file per wording.

    Raises:
        UserError: there is no such wording, or its keys or placeholders are not those of ``kind``.
    """
    shipped = {
        entry.name.removesuffix(".yaml"): entry
        for entry in (resources.files(package) / folder).iterdir()
        if entry.name.endswith(".yaml")
    }
    if name in shipped:
        text = shipped[name].read_text(encoding="utf-8")
    elif Path(name).is_file():
        text = Path(name).read_text(encoding="utf-8")
    else:
        raise UserError(f"{setting}={name}: neither a file nor one of {choices(list(shipped))}")
    where = f"{setting}={name}"
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"{where} is not YAML: {' '.join(str(error).split())}") from error
    known_keys = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    expected = {field.name for field in fields(kind) if field.default is MISSING}  # type: ignore[arg-type]
    if not isinstance(content, dict) or not expected <= set(content) <= known_keys:
        raise UserError(f"{where}: its keys must be exactly {choices(list(expected))}")
    content = {field.name: field.default for field in fields(kind) if field.default is not MISSING} | content  # type: ignore[arg-type]
    for key, known in placeholders.items():
        try:
            used = {
                field for _, field, _, _ in string.Formatter().parse(str(content[key])) if field is not None
            }
        except ValueError as error:
            raise UserError(f"{where}: {key}: {error}; write {{{{ for a brace") from error
        if used - known:
            raise UserError(
                f"{where}: {key} has no placeholder {', '.join(sorted(used - known))}; it has {choices(list(known))}"
            )
    return kind(
        **{key: value if isinstance(value, list | tuple) else str(value) for key, value in content.items()}
    )
