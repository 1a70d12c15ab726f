"""Reads files of settings, such as those that an earlier run kept."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mllmrec.errors import UserError

# Exceptions from a damaged YAML file, or from one that names Python objects.
_NOT_SETTINGS = (yaml.YAMLError, OmegaConfBaseException, UnicodeDecodeError, OSError, ValueError)


# Settings for a job's name, output, sharing, overwriting, resuming and warnings: its results do not depend on them.
OF_THE_JOB = (
    *("cache_dir", "logger", "run_name", "skip_finished", "share_stages", "overwrite", "warnings"),
    *("resume", "checkpoint"),
)

# Settings of a section that say where something is computed, and not what.
OF_THE_PLACE = {
    "generator": (
        *("base_url", "api_key_env", "concurrency", "timeout_seconds", "attempts", "backoff_seconds"),
        *("adapter_folder", "seen_as"),
    )
}

# Modules of classes that settings name: where they were in earlier versions, and where they are.
MOVED = {"mllmrec.loggers": "mllmrec.run.loggers"}


def of_results(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a job, resolved, that its results depend on."""
    found = {name: value for name, value in settings.items() if name not in OF_THE_JOB}
    for section, names in OF_THE_PLACE.items():
        if isinstance(found.get(section), Mapping):
            found[section] = {name: value for name, value in found[section].items() if name not in names}
    return found


def read_settings(path: Path) -> Any:
    """A YAML file of settings as an OmegaConf object; no code in the file runs.

    A ``_target_`` in a module that has moved since the file was written names the module's place of today, and settings
    that became a part of their own are that part.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        _refuse_repeats(path)
        loaded = OmegaConf.load(path)
        return OmegaConf.create(_of_today(OmegaConf.to_container(loaded)))
    except _NOT_SETTINGS as error:
        first = str(error).strip().partition("\n")[0]
        raise UserError(f"{path} cannot be read ({first}): put a copy in its place, or run again") from error


def _refuse_repeats(path: Path) -> None:
    """Refuse YAML that repeats parts of itself by reference: a short file can stand for more than memory holds.

    Raises:
        ValueError: it does; settings that a run wrote never do.
    """
    with path.open("rb") as stream:
        for event in yaml.parse(stream, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
            if isinstance(event, yaml.AliasEvent):
                raise ValueError(
                    f"line {event.start_mark.line + 1} refers to another part of the file by *{event.anchor}"
                )


def _of_today(settings: Any) -> Any:
    if isinstance(settings, list):
        return [_of_today(entry) for entry in settings]
    if not isinstance(settings, dict):
        return settings
    found = {key: _of_today(value) for key, value in settings.items()}
    module, dot, name = str(found.get("_target_")).rpartition(".")
    if module in MOVED:
        found["_target_"] = MOVED[module] + dot + name
    if name == "SasRecText" and "text_size" in found:
        found["encoder"] = _encoder_of_today(
            *(found.pop(key, None) for key in ("encoder", "revision", "text_size"))
        )
    return found


def _encoder_of_today(path: Any, revision: Any, size: Any) -> dict[str, Any]:
    """The encoder of a recommender that encoded texts itself, as those of earlier versions did."""
    if path is None:
        return {"_target_": "mllmrec.text_encoders.tfidf.Tfidf", "size": size}
    return {
        "_target_": "mllmrec.text_encoders.sentence.SentenceEncoder",
        "path": path,
        "revision": revision,
    }
