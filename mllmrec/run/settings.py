"""Reads files of settings, such as those that an earlier run kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mllmrec.errors import UserError

# Exceptions from a damaged YAML file, or from one that names Python objects.
_NOT_SETTINGS = (yaml.YAMLError, OmegaConfBaseException, UnicodeDecodeError, OSError, ValueError)


def read_settings(path: Path) -> Any:
    """A YAML file of settings as an OmegaConf object; no code in the file runs.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        return OmegaConf.load(path)
    except _NOT_SETTINGS as error:
        first = str(error).strip().partition("\n")[0]
        raise UserError(f"{path} cannot be read ({first}): put a copy in its place, or run again") from error
