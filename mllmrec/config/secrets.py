"""Refuses secrets in a configuration, since Hydra saves the overrides and all values in the run folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from mllmrec.config.secret_values import is_called_secret, looks_secret, secret_values

_WHAT_TO_DO = (
    "it would be saved in the run folder; put it in an environment variable, and give only the name of the variable, "
    "as draft.api_key_env does"
)


def without_secrets(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """The overrides that hold no secret, and a fault for each of the others. Faults do not show the value.

    A value is a secret if its key sounds like one (``api_key``, ``password``), or if it equals the value of an
    environment variable whose name sounds like one. A reference to the environment (``${oc.env:NAME}``) is no secret.

    Args:
        overrides: the overrides as typed.
    """
    kept, faults = [], []
    for text in overrides:
        name, _, typed = text.partition("=")
        name = name.lstrip("+~")
        found = next(_secrets(name, _value(text, typed)), None)
        # Hydra saves the text, so search all of it: a secret may stand anywhere, even in a file's name.
        held = next((variable for variable, value in _of_environment() if value in text), None)
        if found is not None:
            faults.append(f"{found} sounds like a secret: {_WHAT_TO_DO}")
        elif held is not None:
            faults.append(f"{name} holds the value of the environment variable {held}: {_WHAT_TO_DO}")
        elif looks_secret(text):
            faults.append(f"{name} holds what looks like a key, or an address with a password: {_WHAT_TO_DO}")
        else:
            kept.append(text)
    return kept, faults


def secrets_in_files(config: DictConfig) -> list[str]:
    """A fault for each value of a composed configuration whose key sounds like a secret, such as in a user's file."""
    plain: Any = OmegaConf.to_container(config, resolve=False)
    return [f"{name} sounds like a secret: {_WHAT_TO_DO}" for name in _secrets("", plain)]


def _value(text: str, typed: str) -> Any:
    try:
        return OverridesParser.create().parse_override(text).value()
    except (HydraException, ValueError):
        return typed


def _of_environment() -> list[tuple[str, str]]:
    return [(name, value) for name, value in secret_values() if is_called_secret(name)]


def _secrets(path: str, value: Any) -> Iterator[str]:
    """The paths of secrets in a value: texts and numbers whose key sounds like a secret."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            name = str(getattr(key, "text", key))
            yield from _secrets(f"{path}.{name}" if path else name, inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _secrets(path, inner)
    elif isinstance(value, str) and looks_secret(value):
        yield path
    elif value is not None and not isinstance(value, bool) and is_called_secret(path.rpartition(".")[2]):
        words = str(value)
        if words not in ("", "???") and not words.startswith("${"):
            yield path
