"""Folders and packages of configuration files that a command line adds to the package's own."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from mllmrec.config.messages import readable
from mllmrec.config.typed import quoted

SEARCH_PATH = "hydra.searchpath"
_MISSING = "does not exist: give a folder of configuration files, or pkg:// and an importable package"


@dataclass(frozen=True)
class Places:
    """The places that a command line adds, and its other overrides."""

    search: list[str]  # one override that tells Hydra all places; empty if there are none
    overrides: list[str]  # the overrides that add no place
    faults: list[str]  # a fault for each place that does not exist


def further_places(overrides: Sequence[str], extra_dir: str | None = None) -> Places:
    """Find the places of configuration files that a command line adds.

    Args:
        overrides: the overrides as typed. ``hydra.searchpath=[...]`` among them takes folders (``DIR``, ``file://DIR``)
            and packages (``pkg://PACKAGE``).
        extra_dir: folder given by Hydra's ``--config-dir``.
    """
    parser = OverridesParser.create()
    added, rest, faults = [], [], []
    for text in overrides:
        if text.split("=", 1)[0] != SEARCH_PATH:
            rest.append(text)
            continue
        try:
            value = parser.parse_override(text).value()
        except HydraException as error:
            faults.append(f"{text}: {readable(error)}")
            continue
        if not isinstance(value, list) or not all(isinstance(place, str) for place in value):
            faults.append(
                f"{text}: must be a list, as in {SEARCH_PATH}=[DIR,pkg://PACKAGE]; --config-dir DIR takes one folder"
            )
            continue
        faults += [f"{text}: {place} {_MISSING}" for place in value if not _is_there(place)]
        added += [place for place in value if _is_there(place)]
    if extra_dir and not Path(extra_dir).is_dir():
        faults.append(f"--config-dir {extra_dir}: no such folder; give a folder of configuration files")
    elif extra_dir:
        # If several places have a file of the same name, Hydra takes the one in --config-dir.
        added.insert(0, f"file://{Path(extra_dir).resolve()}")
    folders = ",".join(map(quoted, added))
    return Places([f"{SEARCH_PATH}=[{folders}]"] if added else [], rest, faults)


def _is_there(place: str) -> bool:
    """Whether Hydra would find configuration files at ``place``."""
    scheme, separator, name = place.rpartition("://")
    if scheme == "pkg":
        try:
            return importlib.util.find_spec(name.replace("/", ".")) is not None
        except (ImportError, ValueError):
            return False
    return Path(name if separator else place).is_dir()


@dataclass(frozen=True)
class Groups:
    """The config groups and their files, including files in added places."""

    loader: ConfigLoader
    config_name: str
    search: list[str]

    def options(self, group: str) -> list[str]:
        """Every file of a group."""
        return self.loader.get_group_options(group, config_name=self._root(), overrides=self.search)

    def _root(self) -> str | None:
        """The root file, if Hydra has to look for more places in it; for each group it would take longer than all else."""
        for place in self.loader.get_search_path().get_path():
            file = Path(place.path.removeprefix("file://"), f"{self.config_name}.yaml")
            if place.provider == "main" and file.is_file() and "searchpath" not in file.read_text("utf-8"):
                return None
        return self.config_name

    def choices(self, group: str) -> list[str]:
        """The files that users may choose; the names of private files begin with an underscore."""
        return [name for name in self.options(group) if not name.startswith("_")]


def group_choices(
    group: str, config_name: str, overrides: Sequence[str], extra_dir: str | None = None
) -> list[str]:
    """The choices of a group; Hydra must be initialised.

    Args:
        group: name of the group.
        config_name: the root file.
        overrides: the overrides of the command line.
        extra_dir: folder given by Hydra's ``--config-dir``, if Hydra was initialised without it.
    """
    search = further_places(overrides, extra_dir).search
    return Groups(GlobalHydra.instance().config_loader(), config_name, search).choices(group)
