"""Finds every fault of a composed configuration before a model or a dataset is loaded, and reports all together."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationToMissingValueError, OmegaConfBaseException
from pydantic import BaseModel, ValidationError

from mllmrec.config.algorithms import broken_algorithms
from mllmrec.config.components import component_faults, declared_faults, inner_sections, targets_of_python
from mllmrec.config.kinds import KINDS
from mllmrec.config.messages import bound_fault, readable
from mllmrec.config.phases import phase_faults, phases_of
from mllmrec.config.rules import accelerator_exists, broken_rules
from mllmrec.config.schema import SECTIONS, Root
from mllmrec.errors import ConfigError

Trials = Callable[[Mapping[str, Any], Collection[str]], list[str]]


def check_config(cfg: DictConfig, trials: Trials | None = None) -> None:
    """Check types, bounds, contradictions, the arguments of every ``_target_``, and what it returns for a toy batch.

    Checks that import no component come first, since torch alone takes seconds to import. Components are imported,
    built and tried only if those checks find no fault.

    Args:
        cfg: a composed configuration.
        trials: takes resolved settings and the sections with faults, tries the other parts on toy batches, and returns
            their faults; None: no part is tried.

    Raises:
        ConfigError: one or more settings are wrong; it names all.
    """
    settings, faults = _told_without_imports(cfg)
    faults += broken_rules(settings, (accelerator_exists,)) if not faults else []
    if not faults:
        faults = component_faults(settings)
        faulty = {fault.split(".", 1)[0].split(":")[0] for fault in faults}
        faults += trials(settings, faulty) if trials is not None else []
    if faults:
        raise ConfigError(list(dict.fromkeys(faults)))


def plain_faults(cfg: DictConfig) -> list[str]:
    """The faults that `check_config` finds without importing any component."""
    return _told_without_imports(cfg)[1]


def _told_without_imports(cfg: DictConfig) -> tuple[dict[str, Any], list[str]]:
    """The resolved settings and their faults: bounds, missing values, contradictions, arguments of classes."""
    settings, faults = _resolve(cfg)
    faults += [*_schema_faults(settings), *broken_rules(settings), *broken_algorithms(cfg, settings)]
    # The settings may come from a run folder that someone else made: check this before anything is built.
    faults += targets_of_python(settings)
    return settings, _without_echoes(cfg, [*faults, *declared_faults(settings)])


def _without_echoes(cfg: DictConfig, faults: list[str]) -> list[str]:
    """The faults without those of settings that only repeat another faulty one, such as ``seed: ${seed}``."""
    named = [re.split("[=:]", fault, maxsplit=1)[0] for fault in faults]
    repeats = dict(_repeats("", OmegaConf.to_container(cfg, resolve=False)))
    return [
        fault
        for fault, path in zip(faults, named, strict=True)
        if repeats.get(path, path) not in {*named} - {path}
    ]


def _repeats(path: str, value: Any) -> Iterator[tuple[str, str]]:
    """(path, the path whose value it repeats)."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _repeats(f"{path}.{key}" if path else str(key), inner)
    elif isinstance(value, str) and (found := re.fullmatch(r"\$\{([\w.]+)\}", value)):
        yield path, found[1]


def _resolve(cfg: DictConfig) -> tuple[dict[str, Any], list[str]]:
    """The values that can be resolved, as plain dictionaries, and the faults of the others."""
    settings: dict[str, Any] = {}
    faults = []
    for key in map(str, cfg):
        if key == "hydra":
            continue
        if OmegaConf.is_missing(cfg, key):
            faults.append(_not_set(key))
            continue
        try:
            value = cfg[key]
            settings[key] = (
                OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
            )
        except InterpolationToMissingValueError:
            # It refers to a value that is itself reported as not set.
            continue
        except OmegaConfBaseException as error:
            faults.append(f"{key}: {readable(error)}")
            continue
        faults += [_not_set(path) for path in _missing(key, settings[key])]
    return settings, faults


def _not_set(key: str) -> str:
    return f"{key} is not set: add {key}=VALUE"


def _missing(path: str, value: Any) -> Iterator[str]:
    """The paths of mandatory values that are not set."""
    if value == "???":
        yield path
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _missing(f"{path}.{key}", inner)


def _schema_faults(settings: dict[str, Any]) -> list[str]:
    root = {key: value for key, value in settings.items() if key in Root.model_fields}
    faults = _faults(Root, "", root)
    if "method" not in settings:
        # A command on a finished run. There "same" stands for that run's own value.
        for name in ("eval", "batching", "limits"):
            if name in settings:
                faults += _faults(SECTIONS[name], name, settings[name], unchecked="same")
        return faults
    kinds = {name: kind.settings for name, kind in KINDS.items()}
    try:
        kinds |= {phase.kind.name: phase.kind.settings for phase in phases_of(settings)}
    except (ValueError, KeyError, TypeError):
        faults += [] if isinstance(settings["method"], dict) else ["method: must be a section"]
    for name, model in {**SECTIONS, **kinds}.items():
        if name in settings and not _has_no_phase(name, settings[name]):
            faults += _faults(model, name, settings[name])
            for place, inner in inner_sections(
                settings[name] if isinstance(settings[name], dict) else {}
            ).items():
                faults += _faults(model, f"{name}.{place}", inner)
    return faults + phase_faults(settings) + _faults_of_phases(settings)


def _faults_of_phases(settings: dict[str, Any]) -> list[str]:
    """The faults of what phases set for themselves, where the section alone has none."""
    found = []
    try:
        phases = [phase for phase in phases_of(settings) if phase.given]
    except (ValueError, KeyError, TypeError):
        return []
    for phase in phases:
        seen = phase.settings(settings)[phase.kind.name]
        if seen is not None:
            own = _faults(phase.kind.settings, phase.kind.name, seen)
            before = _faults(phase.kind.settings, phase.kind.name, settings.get(phase.kind.name))
            found += [f"method.phases, {phase.name}: {fault}" for fault in own if fault not in before]
    return found


def _has_no_phase(name: str, section: Any) -> bool:
    """Whether the recipe leaves this kind of phase out. A preset's limit may be all that remains of a warm-up section."""
    if section is None:
        return name in KINDS
    return name == "warmup" and isinstance(section, dict) and "epochs" not in section


def _faults(model: type[BaseModel], section: str, values: Any, unchecked: str | None = None) -> list[str]:
    """The faults that ``model`` finds in ``values``, except in values equal to ``unchecked``."""
    try:
        model.model_validate(values)
    except ValidationError as error:
        return [
            bound_fault(section, detail, model.model_fields, _reason(model, detail["loc"]))
            for detail in error.errors()
            if unchecked is None or detail["input"] != unchecked
        ]
    return []


def _reason(model: type[BaseModel], location: tuple[int | str, ...]) -> str | None:
    field = model.model_fields.get(str(location[0])) if location else None
    return field.description if field is not None else None
