"""Files and folders that settings name: whether they hold what they held when a job read them.

They are found by what settings say, whatever the part is that reads them: every text that is a path of this machine.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from mllmrec.cache import files_fingerprint, fingerprint

Record = dict[str, dict[str, str]]

# Settings whose value may be one word that is a path; elsewhere a word such as `test` is none.
_PATHS = {
    "encoder",
    "images",
    "interactions",
    "items",
    "path",
    "reference",
    "root",
    "template",
    "test",
    "train",
    "validation",
}


class InputFiles:
    """The files and folders that settings name.

    Of a folder neither hidden files count, nor those that cannot be read, nor the part of it that jobs write to.

    Args:
        settings: the resolved configuration.
        written: folders that jobs write to; a setting that names one names no input.
    """

    def __init__(self, settings: Mapping[str, Any], written: Collection[Path]) -> None:
        self._written = [path.resolve() for path in written]
        self._named = {key: path for key, path in _paths_in(settings) if path.resolve() not in self._written}

    def record(self) -> Record:
        """What to keep of them, as JSON values by the setting. Every byte is read: gigabytes take seconds."""
        return {
            key: {"seen": _seen(files), "content": files_fingerprint(files)}
            for key, files in ((key, self._files(path)) for key, path in self._named.items())
        }

    def edited(self, record: Record) -> list[str]:
        """The settings whose files hold something else than when ``record`` was made.

        Content is read again only where names, sizes or times of change differ. What is no longer there has not been
        edited.
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
            return  # too long for a path, or no text of one


def _looks_like_a_path(text: str) -> bool:
    signs = "./" + os.sep
    return any(sign in text for sign in signs) and text.strip(signs) != ""


def _seen(files: Mapping[str, Path]) -> str:
    """A hash of names, sizes and times of change."""
    states = ((name, path.stat()) for name, path in sorted(files.items()))
    return fingerprint([(name, state.st_size, state.st_mtime_ns) for name, state in states])
