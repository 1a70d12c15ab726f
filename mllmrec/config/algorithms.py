"""Checks that ``loss=NAME`` or ``advantage=NAME`` brings a whole algorithm, with the ``grpo`` settings in its file.

Such a file begins with ``# @package _global_`` and has a ``grpo`` section. A file further down the defaults list can
override part of that section: the file of the other group, or a preset. The command line may change single keys of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from mllmrec.config.messages import shown
from mllmrec.config.phases import phases_of

_WORDS = ("loss", "advantage")


def broken_algorithms(cfg: DictConfig, settings: Mapping[str, Any]) -> list[str]:
    """A fault for each ``grpo`` value that a choice on the command line sets and another file overrides.

    Args:
        cfg: the composed configuration. If it lacks Hydra's section, the section of a running job is read, if any.
        settings: ``cfg`` resolved.
    """
    grpo, method = settings.get("grpo"), settings.get("method")
    if not isinstance(grpo, Mapping) or not isinstance(method, Mapping):
        return []
    try:
        if not any("loss" in phase.kind.parts for phase in phases_of(settings)):
            return []
    except (ValueError, KeyError, TypeError):
        return []
    hydra: Any = cfg.get("hydra") or (HydraConfig.get() if HydraConfig.initialized() else None)
    if hydra is None:
        return []
    # Unresolved: other checks report a reference to a missing value.
    overrides: Any = OmegaConf.to_container(hydra.overrides.task, resolve=False)
    typed = {text.lstrip("+~").split("=", 1)[0] for text in overrides}
    brought = {word: _brought(hydra, word) for word in _WORDS}
    return [
        _fault(hydra, brought, word, key, value, grpo[key])
        for word in _WORDS
        for key, value in brought[word].items()
        # A preset may change a file that it chose itself.
        if word in typed and f"grpo.{key}" not in typed and key in grpo and grpo[key] != value
    ]


def _fault(
    hydra: DictConfig, brought: Mapping[str, Mapping[str, Any]], word: str, key: str, value: Any, actual: Any
) -> str:
    others = [other for other in _WORDS if other != word and brought[other].get(key) == actual]
    who = f"{others[0]}={hydra.runtime.choices[others[0]]}" if others else "a preset"
    wanted, found = (f"grpo.{key}={shown(one)}" for one in (value, actual))
    return (
        f"{word}={hydra.runtime.choices[word]} sets {wanted}, but {who} sets {shown(actual)}: add {wanted} or "
        f"{found}"
    )


def _brought(hydra: DictConfig, word: str) -> dict[str, Any]:
    """The ``grpo`` section of the file that was chosen from a group."""
    for path in _files(hydra, word):
        if path.is_file():
            plain: Any = OmegaConf.to_container(OmegaConf.load(path))
            section = plain.get("grpo") if isinstance(plain, dict) else None
            return section if isinstance(section, dict) else {}
    return {}


def _files(hydra: DictConfig, word: str) -> Iterator[Path]:
    name = f"{hydra.runtime.choices.get(word)}".removesuffix(".yaml")
    for source in hydra.runtime.config_sources:
        if source.schema == "file":
            yield Path(source.path) / word / f"{name}.yaml"
