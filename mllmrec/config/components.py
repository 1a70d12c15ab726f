"""Checks the class that each ``_target_`` names: it exists, takes these keys, and accepts their values."""

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
from mllmrec.config.named_classes import located, why_no_class
from mllmrec.config.signatures import UNREADABLE, signature_of
from mllmrec.errors import UserError, choices, failure

# Keys that the pipeline reads, not the class.
_PIPELINE_KEYS = {"dataset": {"max_users", "filters"}, "cot_policy": {"mix_ratio"}}
# The pipeline adds arguments to these, so the user need not give every argument.
_COMPLETED_LATER = {"cot_policy", "mixing"}
# A section of one of these names a class, or is null.
_PARTS = (
    "dataset",
    "split",
    "caption",
    "backbone",
    "engine",
    "rollout",
    "reward",
    "advantage",
    "loss",
    "sampler",
)


def component_faults(cfg: Mapping[str, Any]) -> list[str]:
    """The faults of every section with a ``_target_``. Imports the modules that these sections name.

    Builds each object once to collect the errors of its constructor. No constructor loads a model or a dataset.

    Args:
        cfg: resolved settings.
    """
    faults: list[str] = []
    faulty: set[str] = set()
    for group, section in _sections(cfg):
        # A part with a faulty one inside cannot be built; it may also be a section that this one refers to.
        if not any(
            inside.startswith(f"{group}.")
            or (cfg.get(inside) is not None and cfg[inside] in section.values())
            for inside in faulty
        ):
            found = _faults_of(group, section)
            faults += found
            faulty |= {group} if found else set()
    return faults


def declared_faults(cfg: Mapping[str, Any]) -> list[str]:
    """The part of `component_faults` that can be read from the sources of the classes. Imports nothing.

    Args:
        cfg: resolved settings.
    """
    faults = list(_nameless(cfg))
    for group, section in _sections(cfg):
        signature = signature_of(str(section["_target_"]))
        if signature is not None:
            hints = {
                name: one.annotation for name, one in signature.items() if one.annotation is not UNREADABLE
            }
            faults += _disagreements(group, _given(group, section), signature, hints)
    return faults


def _sections(cfg: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every section that names a class, with its path."""
    method = cfg.get("method") or {}
    beside = {
        f"{group}.{name}": described
        for group in ("baselines", "shapers", "regularizers")
        for name, described in (cfg.get(group) or {}).items()
    }
    sections = {
        **cfg,
        **beside,
        **{f"method.{name}": method.get(name) for name in ("recommender", "item_vectors")},
    }
    for group, section in sections.items():
        if isinstance(section, Mapping) and section.get("_target_") is not None:
            parts = section.get("parts")
            inside = inner_sections(section)
            if isinstance(parts, Mapping):
                inside |= {f"parts.{name}": part for name, part in parts.items()}
            for place, part in inside.items():
                if isinstance(part, Mapping) and part.get("_target_") is not None:
                    yield f"{group}.{place}", part
            yield group, section


def _nameless(cfg: Mapping[str, Any]) -> Iterator[str]:
    """A fault for each part that names no class, such as a file of the user's own without ``_target_``."""
    parts = {group: cfg.get(group) for group in _PARTS}
    for group in ("shapers", "regularizers"):
        parts |= {f"{group}.{name}": part for name, part in (cfg.get(group) or {}).items()}
    for group, section in parts.items():
        # caption=none says explicitly that there is none.
        told = isinstance(section, Mapping) and "_target_" in section and group == "caption"
        if isinstance(section, Mapping) and section.get("_target_") is None and not told:
            yield f"{group} names no class: its file begins with _target_: package.module.Class"


def inner_sections(section: Mapping[str, Any]) -> dict[str, Any]:
    """The sections inside of a section, by their places: ``inner``, ``inner.inner`` and so on, the innermost first."""
    inner = section.get("inner")
    if not isinstance(inner, Mapping):
        return {}
    return {**{f"inner.{place}": one for place, one in inner_sections(inner).items()}, "inner": inner}


def _given(group: str, section: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a section that are arguments of its class."""
    ours = _PIPELINE_KEYS.get(group, set())
    return {key: value for key, value in section.items() if key not in ours and not key.startswith("_")}


def _disagreements(
    group: str,
    given: Mapping[str, Any],
    parameters: Mapping[str, inspect.Parameter],
    hints: Mapping[str, Any],
) -> list[str]:
    """The faults of arguments that do not fit a constructor."""
    unknown, missing = _unknown_keys(group, given, parameters), _missing_keys(group, given, parameters)
    return [*unknown, *missing, *_wrong_types(group, given, hints)]


def targets_of_python(value: Any, path: str = "") -> Iterator[str]:
    """A fault for every ``_target_``, at any depth, that names something from Python itself, such as ``os.remove``.

    Settings may come from a run folder that someone else made. Check this before anything is built from them.
    """
    if isinstance(value, Mapping):
        target = str(value.get("_target_"))
        if target.split(".")[0] in sys.stdlib_module_names or target.startswith("builtins."):
            yield (
                f"{path}._target_={target}: this belongs to Python itself and cannot be part of a run; name a class of "
                "mllmrec or of your own"
            )
        for key, inner in value.items():
            yield from targets_of_python(inner, f"{path}.{key}" if path else str(key))
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from targets_of_python(inner, path)


def _faults_of(group: str, section: Mapping[str, Any]) -> list[str]:
    target = section["_target_"]
    try:
        component: Any = located(str(target))
    except pydoc.ErrorDuringImport as error:
        what = readable(error).removeprefix("problem in ")
        return [f"{group}._target_={target}: its module fails when imported ({what}); repair it"]
    if not inspect.isclass(component):
        return [f"{group}._target_={target}: {why_no_class(str(target))}"]
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
        if cause is None or str(target).startswith("mllmrec."):
            raise
        return [f"{group}._target_={target}: it cannot be built ({failure(cause)})"]
    return []


def _about(group: str, message: str) -> str:
    if group == "method.item_vectors":
        # A recommender's message names its settings by their usual place.
        message = message.replace("method.recommender", group)
    return message if message.startswith(group) else f"{group}: {message}"


def _unknown_keys(
    group: str, given: Mapping[str, Any], parameters: Mapping[str, inspect.Parameter]
) -> list[str]:
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return []
    return [
        f"{group}.{key}: no such setting here{nearest(key, parameters)}; choose {choices([*parameters])}"
        for key in given
        if key not in parameters
    ]


def _missing_keys(
    group: str, given: Mapping[str, Any], parameters: Mapping[str, inspect.Parameter]
) -> list[str]:
    """Faults of parameters that have no default and were left out."""
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
