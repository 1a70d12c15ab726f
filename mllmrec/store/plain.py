"""State as plain values: what `torch.load` reads with ``weights_only=True``, so that no file can run code.

Arrays, sets, dataclasses and the objects that a job makes anew each time (such as its prompt builder) become dicts with one
reserved key.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import fields, is_dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch

_ARRAY, _SET, _QUEUE, _CLASS, _SHARED = "array", "set", "queue", "class", "shared"
_KEY = "\x1fkind"
_OURS = "mllmrec"


def plain(value: Any, shared: Mapping[str, Any] | None = None) -> Any:
    """``value`` as tensors, numbers, texts, lists, tuples and dicts.

    Args:
        value: state of a part, or a dataclass of such values.
        shared: objects that are not written, by the names under which `restored` is given them.

    Raises:
        TypeError: it holds something else.
    """
    if isinstance(value, np.generic):  # some are floats as well
        return value.item()
    if value is None or isinstance(value, (bool, int, float, str, bytes, torch.Tensor)):
        return value.detach() if isinstance(value, torch.Tensor) else value
    for name, one in (shared or {}).items():
        if value is one:
            return {_KEY: _SHARED, "name": name}
    if isinstance(value, np.ndarray):
        return {_KEY: _ARRAY, "value": torch.from_numpy(np.ascontiguousarray(value)).clone()}
    if isinstance(value, (list, tuple)) and type(value) in (list, tuple):
        return type(value)(plain(one, shared) for one in value)
    if isinstance(value, deque):
        return {_KEY: _QUEUE, "value": [plain(one, shared) for one in value], "most": value.maxlen}
    if isinstance(value, (set, frozenset)):
        own = "frozenset" if isinstance(value, frozenset) else "set"
        return {_KEY: _SET, "value": [plain(one, shared) for one in sorted(value, key=repr)], "own": own}
    if isinstance(value, dict):
        return {plain(key, shared): plain(one, shared) for key, one in value.items()}
    names = _fields(type(value))
    if names is not None:
        kind = type(value)
        content = {name: plain(getattr(value, name), shared) for name in names}
        return {_KEY: _CLASS, "name": f"{kind.__module__}:{kind.__qualname__}", "value": content}
    raise TypeError(f"a {type(value).__name__} cannot be saved")


def restored(value: Any, shared: Mapping[str, Any] | None = None, trust: Collection[str] = ()) -> Any:
    """The value that `plain` was given.

    Args:
        value: as `plain` returned it.
        shared: the objects of the same names in this job.
        trust: packages besides mllmrec whose classes the value may hold.

    Raises:
        ValueError: it names a class of another package, one that this process has not loaded, or one that is no dataclass.
    """
    if isinstance(value, (list, tuple)):
        return type(value)(restored(one, shared, trust) for one in value)
    if not isinstance(value, dict):
        return value
    kind = value.get(_KEY)
    if kind is None:
        return {key: restored(one, shared, trust) for key, one in value.items()}
    if kind == _SHARED:
        return (shared or {})[value["name"]]
    if kind == _ARRAY:
        return value["value"].numpy().copy()
    content = restored(value["value"], shared, trust)
    if kind == _QUEUE:
        return deque(content, maxlen=value["most"])
    if kind == _SET:
        return frozenset(content) if value["own"] == "frozenset" else set(content)
    return _class(value["name"], {_OURS, *trust})(**content)


def write_plain(value: Any, path: Path) -> None:
    """Write what `plain` returned, for ``torch.load(path, weights_only=True)``.

    Raises:
        OSError: the disk cannot take it.
    """
    # Given a path, torch.save reports a full disk as a RuntimeError that says nothing of disks.
    content = BytesIO()
    torch.save(value, content)
    path.write_bytes(content.getbuffer())


def _fields(kind: Any) -> list[str] | None:
    """The fields of a dataclass or named tuple; None for any other class."""
    if is_dataclass(kind):
        return [one.name for one in fields(kind)]
    return list(kind._fields) if issubclass(kind, tuple) and hasattr(kind, "_fields") else None


def _class(name: str, packages: Collection[str]) -> Any:
    """A dataclass or named tuple of these packages, loaded already: a file cannot have modules imported."""
    module, _, path = name.partition(":")
    if module.split(".")[0] not in packages:
        raise ValueError(f"{name} is no class of {' or '.join(sorted(packages))}")
    found: Any = sys.modules.get(module)
    for part in path.split("."):
        found = getattr(found, part, None)
    # What a module only imports is not its own.
    if not isinstance(found, type) or _fields(found) is None or found.__module__ != module:
        raise ValueError(f"{name} is no dataclass of this version")
    return found
