"""One word for a whole algorithm: files of ``loss`` and ``advantage`` bring settings of ``grpo``, which must arrive.

Such a file begins with ``# @package _global_`` and has a ``grpo`` section. What stands below it in the defaults list can
take a part of it away: the other of the two words, or a preset. On the command line a part may be changed by its key.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from mllmrec.config.messages import shown

_WORDS = ("loss", "advantage")


def broken_algorithms(cfg: DictConfig, settings: Mapping[str, Any]) -> list[str]:
    """What a word on the command line brings and something else, not that command line, has changed.

    Args:
        cfg: composed, with Hydra's own section; without one, that of the running job counts, if there is one.
        settings: ``cfg`` resolved.
    """
    grpo, method = settings.get("grpo"), settings.get("method")
    if (
        not isinstance(grpo, Mapping)
        or not isinstance(method, Mapping)
        or "grpo" not in method.get("stages", ())
    ):
        return []
    hydra: Any = cfg.get("hydra") or (HydraConfig.get() if HydraConfig.initialized() else None)
    if hydra is None:
        return []
    # As typed: what refers to a value that is not there is reported elsewhere.
    overrides: Any = OmegaConf.to_container(hydra.overrides.task, resolve=False)
    typed = {text.lstrip("+~").split("=", 1)[0] for text in overrides}
    brought = {word: _brought(hydra, word) for word in _WORDS}
    return [
        _fault(hydra, brought, word, key, value, grpo[key])
        for word in _WORDS
        for key, value in brought[word].items()
        # What a preset both chooses and changes is its own affair.
        if word in typed and f"grpo.{key}" not in typed and key in grpo and grpo[key] != value
    ]


def _fault(
    hydra: DictConfig, brought: Mapping[str, Mapping[str, Any]], word: str, key: str, value: Any, actual: Any
) -> str:
    others = [other for other in _WORDS if other != word and brought[other].get(key) == actual]
    who = f"{others[0]}={hydra.runtime.choices[others[0]]}" if others else "a preset"
    wanted, found = (f"grpo.{key}={shown(one)}" for one in (value, actual))
    return (
        f"{word}={hydra.runtime.choices[word]} brings {wanted}, and {who} sets {shown(actual)}: say which with "
        f"{wanted} or {found}"
    )


def _brought(hydra: DictConfig, word: str) -> dict[str, Any]:
    """The ``grpo`` section of the chosen file of a group."""
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
