"""Checks whether files and folders in the settings still have the content that a job read.

Every text in the settings that is a path on this machine counts, whichever component reads it.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from mllmrec.cache import files_fingerprint, fingerprint
from mllmrec.data.tabular import FILES

Record = dict[str, dict[str, str]]

# In these settings a single word may be a path; in others a word such as `test` is not one.
_PATHS = {*FILES, "images", "path", "reference", "root", "template"}


class InputFiles:
    """The files and folders in the settings.

    In a folder, hidden files, unreadable files and the part that jobs write to do not count.

    Args:
        settings: the resolved configuration.
        written: folders that jobs write to; these are not inputs.
    """

    def __init__(self, settings: Mapping[str, Any], written: Collection[Path]) -> None:
        self._written = [path.resolve() for path in written]
        self._named = {key: path for key, path in _paths_in(settings) if path.resolve() not in self._written}

    def record(self) -> Record:
        """A record of the files, as JSON values by setting. It reads every byte, so gigabytes take seconds."""
        return {
            key: {"seen": _seen(files), "content": files_fingerprint(files)}
            for key, files in ((key, self._files(path)) for key, path in self._named.items())
        }

    def edited(self, record: Record) -> list[str]:
        """The settings with files that have changed since ``record`` was made.

        Content is read again only if names, sizes or times of change differ. A missing file does not count as edited.
        """
        edited = []
        for key, path in self._named.items():
            before = record.get(key)
            files = self._files(path)
            if before is None or before["seen"] == _seen(files):
                continue
            if before["content"] != files_fingerprint(files):
                edited.append(key)
        return edited

    def _files(self, path: Path) -> dict[str, Path]:
        if path.is_file():
            return {"": path}
        found = {}
        for place, folders, names in os.walk(path):
            here = Path(place).resolve()
            folders[:] = [name for name in folders if not self._leads_to_written(here / name)]
            for name in names:
                file = Path(place, name)
                if not name.startswith(".") and file.is_file() and os.access(file, os.R_OK):
                    found[file.relative_to(path).as_posix()] = file
        return found

    def _leads_to_written(self, folder: Path) -> bool:
        return folder.name.startswith(".") or any(path.is_relative_to(folder) for path in self._written)


def _paths_in(settings: Any, key: str = "") -> Iterator[tuple[str, Path]]:
    if isinstance(settings, Mapping):
        for name, value in settings.items():
            yield from _paths_in(value, f"{key}.{name}".lstrip("."))
    elif isinstance(settings, list):
        for place, value in enumerate(settings):
            yield from _paths_in(value, f"{key}.{place}")
    elif isinstance(settings, str) and (_looks_like_a_path(settings) or key.rpartition(".")[2] in _PATHS):
        path = Path(settings).expanduser()
        try:
            if path.exists():
                yield key, path
        except (OSError, ValueError):
            return  # too long for a path, or not a valid one


def _looks_like_a_path(text: str) -> bool:
    signs = "./" + os.sep
    return any(sign in text for sign in signs) and text.strip(signs) != ""


def _seen(files: Mapping[str, Path]) -> str:
    """A hash of names, sizes and times of change."""
    states = ((name, path.stat()) for name, path in sorted(files.items()))
    return fingerprint([(name, state.st_size, state.st_mtime_ns) for name, state in states])
