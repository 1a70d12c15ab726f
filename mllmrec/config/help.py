"""The ``choices`` resolver: help texts in ``conf/hydra/help`` list the files of a config group through it."""

from __future__ import annotations

import textwrap
from pathlib import Path

from omegaconf import OmegaConf

WIDTH, INDENT = 78, 14


def register_help(config_dir: Path) -> None:
    """Let ``${choices:GROUP}`` in a YAML file stand for the names in ``config_dir/GROUP``, wrapped and indented."""

    def choices(group: str) -> str:
        names = sorted(path.stem for path in (config_dir / group).glob("[!_]*.yaml"))
        return textwrap.fill(" ".join(names), WIDTH - INDENT).replace("\n", "\n" + " " * INDENT)

    OmegaConf.register_new_resolver("choices", choices, replace=True)
