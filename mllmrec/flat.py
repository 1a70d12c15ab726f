"""Lets a caller give the fields of a constructor's settings objects as if they were its parameters."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from typing import Any, get_type_hints


def flat_settings(init: Callable[..., None]) -> Callable[..., None]:
    """Let callers give the fields of a constructor's settings objects by name. The objects are made from the fields.

    This way a configuration file has one flat section for a class, and the code keeps related settings together. A
    settings object is a parameter whose default is an instance of a frozen dataclass. A field that is not given keeps
    its value in that default. With ``__init__(self, training: TrainingSettings = TrainingSettings())``,
    ``Class(patience=3)`` is the same as ``Class(TrainingSettings(patience=3))``.

    `inspect.signature` of the class shows the fields after the other parameters, and does not show the objects.

    Raises:
        ValueError: two settings have the same name.
    """
    declared = inspect.signature(init).parameters
    defaults: dict[str, Any] = {
        name: one.default for name, one in declared.items() if is_dataclass(one.default)
    }
    shown = [one for name, one in declared.items() if name not in defaults]
    for default in defaults.values():
        hints = get_type_hints(type(default))
        shown += [
            inspect.Parameter(
                one.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=getattr(default, one.name),
                annotation=hints[one.name],
            )
            for one in fields(default)
        ]
    # A parameter `training` would hide a field of that name.
    names = [*defaults, *(one.name for one in shown)]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"{init.__qualname__}: several settings are named {', '.join(sorted(twice))}")

    @functools.wraps(init)
    def made_of_fields(self: Any, *given: Any, **named: Any) -> None:
        whole = {*list(declared)[1 : len(given) + 1], *named}
        for name, default in defaults.items():
            if name not in whole:
                own = {one.name: named.pop(one.name) for one in fields(default) if one.name in named}
                named[name] = replace(default, **own)
        init(self, *given, **named)

    made_of_fields.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]
    made_of_fields.__annotations__ = {one.name: one.annotation for one in shown[1:]}
    return made_of_fields
