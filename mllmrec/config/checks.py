"""Every fault of a composed configuration, found before a model or a dataset is loaded and reported together."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ValidationError

from mllmrec.config.components import component_faults
from mllmrec.config.messages import bound_fault, readable
from mllmrec.config.rules import CONTRADICTIONS, accelerator_exists, broken_rules
from mllmrec.config.schema import SECTIONS, Root
from mllmrec.errors import ConfigError


def check_config(cfg: DictConfig) -> None:
    """Check types, bounds, contradictions, and what every ``_target_`` takes.

    Raises:
        ConfigError: one or more settings are wrong; all are named.
    """
    settings, faults = _resolve(cfg)
    faults += _schema_faults(settings)
    faults += broken_rules(settings, (*CONTRADICTIONS, accelerator_exists))
    faults += component_faults(settings)
    if faults:
        raise ConfigError(list(dict.fromkeys(faults)))


def plain_faults(cfg: DictConfig) -> list[str]:
    """What `check_config` finds without importing any component: bounds, missing values, contradictions."""
    settings, faults = _resolve(cfg)
    return [*faults, *_schema_faults(settings), *broken_rules(settings)]


def _resolve(cfg: DictConfig) -> tuple[dict[str, Any], list[str]]:
    """The values as plain dictionaries, without those that cannot be resolved, and what is wrong with the latter."""
    faults = [f"{key} is not set: add {key}=VALUE" for key in sorted(OmegaConf.missing_keys(cfg))]
    settings: dict[str, Any] = {}
    for key in cfg:
        if key == "hydra" or OmegaConf.is_missing(cfg, key):
            continue
        try:
            value = cfg[key]
            settings[str(key)] = (
                OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
            )
        except OmegaConfBaseException as error:
            faults.append(f"{key}: {readable(error)}")
    return settings, faults


def _schema_faults(settings: dict[str, Any]) -> list[str]:
    root = {key: value for key, value in settings.items() if key in Root.model_fields}
    faults = _faults(Root, "", root)
    for name, model in SECTIONS.items():
        section = settings.get(name)
        if section is None or _has_no_stage(name, section):
            continue
        faults += _faults(model, name, section)
    return faults


def _has_no_stage(name: str, section: Any) -> bool:
    """Whether this is the warm-up of a recipe without one, to which a preset has added a limit."""
    return name == "warmup" and isinstance(section, dict) and "epochs" not in section


def _faults(model: type[BaseModel], section: str, values: Any) -> list[str]:
    try:
        model.model_validate(values)
    except ValidationError as error:
        return [
            bound_fault(section, detail, model.model_fields, _reason(model, detail["loc"]))
            for detail in error.errors()
        ]
    return []


def _reason(model: type[BaseModel], location: tuple[int | str, ...]) -> str | None:
    field = model.model_fields.get(str(location[0])) if location else None
    return field.description if field is not None else None
