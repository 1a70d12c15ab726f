"""What the settings of a run folder may do: the folder may come from a stranger, and nobody typed its settings here.

Settings can name classes, which then run, and servers, which then get texts, images and a key. Those of a run folder may name
classes of mllmrec and OpenAI's server. Anything else has to be trusted by name: ``trust=[ourlab,gpu-box.local]``, or the
environment variable MLLMREC_TRUST for all commands.
"""

from __future__ import annotations

import inspect
import os
import pydoc
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mllmrec.config.servers import on_this_machine
from mllmrec.errors import UserError

VARIABLE = "MLLMREC_TRUST"
_OURS = "mllmrec"
_SERVER = "api.openai.com"
_KEPT = 60  # characters of a value in a message


def trusted(names: str | Iterable[str] | None = ()) -> tuple[str, ...]:
    """The names that a command or a call trusts, with those of the environment.

    Args:
        names: packages, hosts of servers, and folders of configuration files.
    """
    given = [names] if isinstance(names, str) else [*(names or ())]
    return tuple(
        name.strip()
        for text in [*given, os.environ.get(VARIABLE, "")]
        for name in text.split(",")
        if name.strip()
    )


def named_in(settings: Any) -> tuple[str, ...]:
    """The packages and servers that settings name. Whoever typed the settings trusts them."""
    return tuple(dict.fromkeys(name for _, _, name in _named(settings, "")))


def refuse_strangers(settings: Any, file: Path, trust: Sequence[str]) -> None:
    """Refuse settings of a run folder that name code or servers nobody trusted, before anything is imported or built.

    Args:
        settings: plain.
        file: where they stand, for messages.
        trust: as `trusted` returned it.

    Raises:
        UserError: they name such, or hold what a run never writes.
    """
    text = next(_unresolved(settings, ""), None)
    if text is not None:
        raise UserError(
            f"{file}: {text}: the settings of a run are written with all references resolved: put a copy in its place, or run "
            "again"
        )
    allowed = {_OURS, *trust}
    for path, value, name in _named(settings, ""):
        if name in allowed:
            continue
        shown = value if len(value) <= _KEPT else f"{value[:_KEPT]}…"
        if path.endswith("base_url"):
            raise UserError(
                f"{file}: {path}={shown}: the run's settings send texts, images and a key to {name}: if you know that server, "
                f"add trust=[{name}], or export {VARIABLE}={name}"
            )
        raise UserError(
            f"{file}: {path}={shown}: the run's settings name code outside of mllmrec, and opening the run would run it: if you "
            f"know where the run comes from, add trust=[{name}], or export {VARIABLE}={name}"
        )
    for path, target in _targets(settings, ""):
        _refuse_borrowed(file, path, target, allowed)


def _refuse_borrowed(file: Path, path: str, target: str, allowed: set[str]) -> None:
    """Refuse what a trusted package only imports, as in ``mllmrec.cli.os.system``, and what is no class."""
    try:
        found = pydoc.locate(target)
    except pydoc.ErrorDuringImport:
        return  # the check of the settings says so, with the reason
    if found is None:
        return
    if not inspect.isclass(found) or str(found.__module__).split(".")[0] not in allowed:
        raise UserError(
            f"{file}: {path}={target}: no class of {target.split('.')[0]}: settings of a run name classes alone, each in the "
            "module that defines it"
        )


def _named(value: Any, path: str) -> Iterator[tuple[str, str, str]]:
    """(path of the setting, its value, package or server) for all code and servers that settings name."""
    for place, target in _targets(value, path):
        yield place, target, target.split(".")[0]
    method = value.get("method") if isinstance(value, Mapping) else None
    if isinstance(method, Mapping):
        for key in ("phases", "stages"):  # stages: in runs of earlier versions
            for number, phase in enumerate(method.get(key) or ()):
                kind = phase.get("kind") if isinstance(phase, Mapping) else phase
                if isinstance(kind, str) and "." in kind:
                    yield f"method.{key}[{number}].kind", kind, kind.split(".")[0]
    for place, address in _values(value, path, "base_url"):
        try:
            host = urlsplit(address).hostname or address
        except ValueError:
            host = address
        if host != _SERVER and not on_this_machine(host):
            yield place, address, host


def _targets(value: Any, path: str) -> Iterator[tuple[str, str]]:
    return _values(value, path, "_target_")


def _values(value: Any, path: str, wanted: str) -> Iterator[tuple[str, str]]:
    """(path, text) of every key of this name, at any depth, that has a value."""
    for place, key, inner in _entries(value, path):
        if key == wanted and inner is not None:
            yield place, str(inner)
        else:
            yield from _values(inner, place, wanted)


def _unresolved(value: Any, path: str) -> Iterator[str]:
    """The settings that hold a reference, as in ``${oc.env:HOME}``."""
    if isinstance(value, str) and "${" in value:
        yield f"{path}={value[:_KEPT]}"
    for place, _, inner in _entries(value, path):
        yield from _unresolved(inner, place)


def _entries(value: Any, path: str) -> Iterator[tuple[str, str, Any]]:
    if isinstance(value, Mapping):
        yield from ((f"{path}.{key}" if path else str(key), str(key), inner) for key, inner in value.items())
    elif isinstance(value, (list, tuple)):
        yield from ((f"{path}[{number}]", "", inner) for number, inner in enumerate(value))
