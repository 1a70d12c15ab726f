"""Command lines of ``key=value`` that fill a dataclass, for the scripts of this folder."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from typing import Any, TypeVar

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

T = TypeVar("T")


class WrongUse(ValueError):
    """A command line that cannot be run; the message says what is allowed."""


def read_settings(kind: type[T], arguments: Sequence[str], lists: Mapping[str, Collection[str]]) -> T:
    """Settings from ``key=value`` arguments.

    Args:
        kind: the dataclass of the settings; every field has a default.
        arguments: the command line.
        lists: names that each key may hold, for keys whose value is a list with commas.

    Raises:
        WrongUse: an unknown key or value, or a name that is not in its list.
    """
    defaults: Any = kind()
    try:
        given = OmegaConf.merge(OmegaConf.structured(kind), OmegaConf.from_dotlist(list(arguments)))
        settings = kind(**{str(key): value for key, value in given.items()})
    except OmegaConfBaseException as error:
        raise WrongUse(f"{error}\nThere are {', '.join(asdict(defaults))}, each as key=value.") from error
    for key, names in lists.items():
        unknown = set(getattr(settings, key).split(",")) - set(names)
        if unknown:
            raise WrongUse(f"{key}={','.join(sorted(unknown))}: there are {', '.join(names)}")
    return settings
