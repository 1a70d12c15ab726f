"""The ``choices`` resolver, with which help texts in ``conf/hydra/help`` list the files of a config group."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from omegaconf import OmegaConf

from mllmrec.config.places import group_choices

WIDTH, INDENT = 78, 14


def register_help(config_name: str, overrides: Sequence[str]) -> None:
    """Make ``${choices:GROUP}`` in a YAML file stand for the names that can be chosen, wrapped and indented.

    Args:
        config_name: the root file of the Hydra application that shows the help.
        overrides: the overrides of its command line, which may add folders of configuration files.
    """

    # Hydra calls this each time it composes, and listing the folders takes time. A dictionary rather than
    # functools.cache: a multirun sends this function to other processes, and a cached function cannot be sent.
    known: dict[str, str] = {}

    def choices(group: str) -> str:
        if group not in known:
            names = sorted(group_choices(group, config_name, overrides))
            known[group] = textwrap.fill(" ".join(names), WIDTH - INDENT).replace("\n", "\n" + " " * INDENT)
        return known[group]

    OmegaConf.register_new_resolver("choices", choices, replace=True)
