"""The resolvers with which help texts in ``conf/hydra/help`` list config groups and their files."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

from omegaconf import OmegaConf

from mllmrec.config import CONFIG_DIR
from mllmrec.config.places import group_choices

WIDTH, INDENT = 78, 14


def groups_of(config_name: str) -> list[str]:
    """The config groups in the defaults of a root file, in their order."""
    root: Any = OmegaConf.load(CONFIG_DIR / f"{config_name}.yaml")
    names = [str(next(iter(entry))) for entry in root.defaults if not isinstance(entry, str)]
    return [name.removeprefix("optional ") for name in names if not name.startswith("override ")]


def register_help(config_name: str, overrides: Sequence[str], shown: bool = True) -> None:
    """Make ``${choices:GROUP}`` stand for the names that can be chosen, and ``${groups:}`` for all groups with theirs.

    Args:
        config_name: the root file of the Hydra application that shows the help.
        overrides: the overrides of its command line, which may add folders of configuration files.
        shown: whether anybody will read them. Hydra resolves its help whenever it composes; if nobody reads it, both stand
            for nothing.
    """

    # Hydra calls this each time it composes, and listing the folders takes time. A dictionary rather than
    # functools.cache: a multirun sends this function to other processes, and a cached function cannot be sent.
    known: dict[str, str] = {}

    def choices(group: str) -> str:
        if not shown:
            return ""
        if group not in known:
            names = sorted(group_choices(group, config_name, overrides))
            known[group] = textwrap.fill(" ".join(names), WIDTH - INDENT).replace("\n", "\n" + " " * INDENT)
        return known[group]

    def groups() -> str:
        if not shown:
            return ""
        found = {name: choices(name) for name in groups_of(config_name)}
        return "\n  ".join(f"{name:<11} {files}" for name, files in found.items() if files)

    OmegaConf.register_new_resolver("choices", choices, replace=True)
    OmegaConf.register_new_resolver("groups", groups, replace=True)
