"""Checks of what ``_target_`` names: the class exists, takes these keys, and accepts their values."""

from __future__ import annotations

import inspect
import pydoc
import sys
from collections.abc import Iterator, Mapping
from typing import Any, get_type_hints

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from pydantic import ConfigDict, PydanticSchemaGenerationError, TypeAdapter, ValidationError

from mllmrec.config.messages import allowed, nearest, readable, shown
from mllmrec.config.signatures import UNREADABLE, signature_of
from mllmrec.errors import UserError, choices
from mllmrec.stopping import Stopped

# Read by the pipeline and not by the class.
_PIPELINE_KEYS = {"dataset": {"max_users", "filters"}, "cot_policy": {"mix_ratio"}}
# The pipeline adds arguments of its own to these, so what is missing is not the user's to give.
_COMPLETED_LATER = {"cot_policy", "mixing"}


def component_faults(cfg: Mapping[str, Any]) -> list[str]:
    """The faults of every section with a ``_target_``; imports the modules that these name.

    Objects are built once to hear what their constructors say; none loads a model or a dataset there.

    Args:
        cfg: resolved settings.
    """
    return [fault for group, section in _sections(cfg) for fault in _faults_of(group, section)]


def declared_faults(cfg: Mapping[str, Any]) -> list[str]:
    """The faults among `component_faults` that the sources of the classes tell; nothing is imported.

    Args:
        cfg: resolved settings.
    """
    faults = []
    for group, section in _sections(cfg):
        signature = signature_of(str(section["_target_"]))
        if signature is not None:
            hints = {
                name: one.annotation for name, one in signature.items() if one.annotation is not UNREADABLE
            }
            faults += _disagreements(group, _given(group, section), signature, hints)
    return faults


def _sections(cfg: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every section that names a class, by its path."""
    method = cfg.get("method") or {}
    beside = {f"baselines.{name}": described for name, described in (cfg.get("baselines") or {}).items()}
    sections = {
        **cfg,
        **beside,
        **{f"method.{name}": method.get(name) for name in ("recommender", "item_vectors")},
    }
    for group, section in sections.items():
        if isinstance(section, Mapping) and section.get("_target_") is not None:
            yield group, section


def _given(group: str, section: Mapping[str, Any]) -> dict[str, Any]:
    """What of a section is an argument of its class."""
    ours = _PIPELINE_KEYS.get(group, set())
    return {key: value for key, value in section.items() if key not in ours and not key.startswith("_")}


def _disagreements(
    group: str,
    given: Mapping[str, Any],
    parameters: Mapping[str, inspect.Parameter],
    hints: Mapping[str, Any],
) -> list[str]:
    """Where the arguments are not those that a constructor takes."""
    unknown, missing = _unknown_keys(group, given, parameters), _missing_keys(group, given, parameters)
    return [*unknown, *missing, *_wrong_types(group, given, hints)]


def targets_of_python(value: Any, path: str = "") -> Iterator[str]:
    """A fault for every ``_target_``, wherever it stands, that names something of Python itself, such as ``os.remove``.

    Settings may come from a run folder that someone else made: nothing of them may be built before this is asked.
    """
    if isinstance(value, Mapping):
        target = str(value.get("_target_"))
        if target.split(".")[0] in sys.stdlib_module_names or target.startswith("builtins."):
            yield (
                f"{path}._target_={target}: what Python itself brings is no part of a run; name a class of mllmrec or "
                "of your own"
            )
        for key, inner in value.items():
            yield from targets_of_python(inner, f"{path}.{key}" if path else str(key))
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from targets_of_python(inner, path)


def _faults_of(group: str, section: Mapping[str, Any]) -> list[str]:
    target = section["_target_"]
    try:
        component: Any = pydoc.locate(str(target))
    except pydoc.ErrorDuringImport as error:
        if isinstance(error.value, (Stopped, KeyboardInterrupt)):
            # Of the command, not of the module that was being imported at that moment.
            raise error.value from None
        return [f"{group}._target_={target}: its module fails when imported ({readable(error)}); repair it"]
    if not inspect.isclass(component):
        return [f"{group}._target_={target}: no such class; give its full path, as in package.module.Class"]
    given = _given(group, section)
    hints = get_type_hints(component.__init__)
    faults = _disagreements(group, given, inspect.signature(component).parameters, hints)
    if faults or group in _COMPLETED_LATER or "???" in given.values():
        return faults
    try:
        instantiate({**given, "_target_": target})
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, (UserError, ValueError)):
            return [_about(group, readable(cause))]
        raise
    return []


def _about(group: str, message: str) -> str:
    if group == "method.item_vectors":
        # A recommender names its settings as if it stood in its usual place.
        message = message.replace("method.recommender", group)
    return message if message.startswith(group) else f"{group}: {message}"


def _unknown_keys(
    group: str, given: Mapping[str, Any], parameters: Mapping[str, inspect.Parameter]
) -> list[str]:
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return []
    return [
        f"{group}.{key}: no such setting here{nearest(key, parameters)}; there are {choices([*parameters])}"
        for key in given
        if key not in parameters
    ]


def _missing_keys(
    group: str, given: Mapping[str, Any], parameters: Mapping[str, inspect.Parameter]
) -> list[str]:
    """Parameters without a default that were left out."""
    if group in _COMPLETED_LATER:
        return []
    return [
        f"{group}.{name} is not set: add {group}.{name}=VALUE"
        for name, parameter in parameters.items()
        if parameter.default is parameter.empty
        and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        and name not in given
    ]


def _wrong_types(group: str, given: Mapping[str, Any], hints: Mapping[str, Any]) -> list[str]:
    faults = []
    for key, value in given.items():
        if key not in hints or value is None or value == "???" or isinstance(value, Mapping):
            continue
        try:
            adapter = TypeAdapter(hints[key], config=ConfigDict(strict=True))
        except PydanticSchemaGenerationError:
            continue
        try:
            adapter.validate_python(value)
        except ValidationError as error:
            expected = dict.fromkeys(allowed(detail["msg"]) for detail in error.errors())
            faults.append(f"{group}.{key}={shown(value)}: {' or '.join(expected)}")
    return faults
