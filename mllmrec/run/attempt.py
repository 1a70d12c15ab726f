"""An unfinished attempt at a job, which another attempt with the same settings goes on from."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from mllmrec.cache import fingerprint, source_fingerprint, write_json
from mllmrec.errors import UserError
from mllmrec.run.folder import RunFolder
from mllmrec.run.input_files import InputFiles, Record
from mllmrec.run.log import OTHER_CODE
from mllmrec.screen.console import relative

log = logging.getLogger(__name__)

_JOB = "job.json"
_NAMED = 5  # settings that a message names


class Attempt:
    """The job that a run folder is about.

    Args:
        folder: the run's folder, which this job has locked.
        settings: the settings that results depend on.
        files: the files that the settings name.
        record: of them as they are now.
    """

    def __init__(
        self, folder: RunFolder, settings: Mapping[str, Any], files: InputFiles, record: Record
    ) -> None:
        self.folder, self.settings, self.files, self.record = folder, settings, files, record
        self.path = folder.resume_path / _JOB
        self.logged_as: str | None = None  # what a logging service calls this run

    def goes_on(self, *, overwrite: bool) -> bool:
        """Whether the folder holds an earlier attempt at this very job.

        Args:
            overwrite: whether an attempt at another job may be replaced; a warning says so.

        Raises:
            UserError: it holds an attempt at another job, which must not be replaced.
        """
        before = self._earlier()
        if before is None or self.folder.is_finished:
            return False
        changes = [*self._changed(before["settings"]), *self._edited(before["files"])]
        if not changes:
            if before.get("code") != _code():
                log.warning(
                    "%s: %s, so its phases come from two versions; resume=never starts anew",
                    self.folder.path,
                    OTHER_CODE,
                )
            return True
        shown = "; ".join(changes[:_NAMED]) + (
            f"; {len(changes) - _NAMED} more" if len(changes) > _NAMED else ""
        )
        if overwrite:
            log.warning("%s: starts anew, since other settings began it: %s", self.folder.path, shown)
            return False
        raise UserError(
            f"{relative(self.folder.path)} holds an unfinished run with other settings ({shown}): restore them to go on, "
            "or start anew with resume=never, or choose another hydra.run.dir"
        )

    @property
    def job(self) -> str:
        """A fingerprint of the settings, the same with any number of processes."""
        return fingerprint(_of_any_number(self.settings))

    def begin(self) -> None:
        """Write down the job, so that another attempt can go on."""
        content = {"settings": self.settings, "files": self.record, "code": _code()}
        write_json(self.path, {**content, "logged_as": self.logged_as})

    def earlier_name(self) -> str | None:
        """What a logging service calls the run that the earlier attempt began."""
        before = self._earlier() or {}
        return before.get("logged_as")

    def _earlier(self) -> dict[str, Any] | None:
        try:
            found = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) and {"settings", "files"} <= found.keys() else None

    def _changed(self, before: Mapping[str, Any]) -> list[str]:
        now = json.loads(json.dumps(self.settings, default=str))
        old, new = (dict(_leaves(_of_any_number(one))) for one in (before, now))
        missing = "unset"
        return [
            f"{key} {old.get(key, missing)} -> {new.get(key, missing)}"
            for key in [*new, *(key for key in old if key not in new)]
            if old.get(key, missing) != new.get(key, missing)
        ]

    def _edited(self, files: Record) -> list[str]:
        return [f"the file of {key} was edited" for key in self.files.edited(files)]


def begun_job(folder: RunFolder) -> str | None:
    """A fingerprint of the settings with which the attempt in a run folder began; None if there is none."""
    try:
        begun = json.loads((folder.resume_path / _JOB).read_text(encoding="utf-8"))
        return fingerprint(_of_any_number(begun["settings"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


@cache
def _code() -> str:
    """A hash of this package's source and the versions of the libraries that train; classes of the user's own are not in it."""
    sources = sorted(str(path) for path in Path(__file__).parents[1].rglob("*.py"))
    return source_fingerprint(*sources, libraries=("torch", "transformers", "peft", "lightning"))


def _of_any_number(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings as those of one process, which may begin what several go on with, and the other way round."""
    trainer = settings.get("trainer")
    if not isinstance(trainer, Mapping) or "devices" not in trainer:
        return dict(settings)
    return {**settings, "trainer": {**trainer, "devices": 1, "strategy": "auto"}}


def _leaves(settings: Any, key: str = "") -> list[tuple[str, Any]]:
    """Every value by its dotted key."""
    if isinstance(settings, Mapping) and settings:
        return [
            leaf
            for name, value in settings.items()
            for leaf in _leaves(value, f"{key}.{name}" if key else name)
        ]
    return [(key, settings)]
