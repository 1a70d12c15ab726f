"""Folders of trained weights kept for other jobs: what several runs have in common is trained once.

A folder is named by the fingerprint of everything that made its weights. It is whole or absent: it names its files with
their hashes, and what does not fit them is trained again. Jobs that need the same one at the same time wait for the one
that trains it.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from mllmrec.cache import file_fingerprint, fingerprint, temporary_beside
from mllmrec.csv_log import read_log, write_log
from mllmrec.disk_faults import about, disk_fault
from mllmrec.run_folder import RunFolder

log = logging.getLogger(__name__)

_LOG, _COST = "log.csv", "cost.json"
# What the weights were made from, and the hash of every other file of the folder.
_MADE_FROM = "made_from.json"


def place_of(folder: Path, parts: Mapping[str, Any]) -> Path:
    """Where in ``folder`` weights are kept that were made from these parts."""
    return folder / fingerprint(parts)


@contextmanager
def alone(place: Path, what: str) -> Iterator[None]:
    """Keep other jobs from training what belongs at ``place``, and is called ``what``, until the block ends."""
    place.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(f"{place}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log.warning("waiting for another job that trains the same %s", what)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def keeping(place: Path, parts: Mapping[str, Any], run: RunFolder, stages: Sequence[str]) -> Iterator[Path]:
    """Yield a folder to write weights to, which becomes ``place``; log and cost of the run so far go with them.

    Where the disk takes no more, nothing is kept, and a warning says so.

    Args:
        place: of ``parts``, and empty.
        parts: what made the weights.
        run: that trained them.
        stages: of the run that they come from.
    """
    temporary = temporary_beside(place)
    try:
        with about(place):
            temporary.mkdir(parents=True)
            yield temporary
            if run.log_path.exists():
                shutil.copyfile(run.log_path, temporary / _LOG)
            costs = run.metrics()["cost"]
            known = json.dumps({stage: costs[stage] for stage in stages})
            (temporary / _COST).write_text(known, encoding="utf-8")
            made_from = {"parts": parts, "files": _files_of(temporary)}
            (temporary / _MADE_FROM).write_text(
                json.dumps(made_from, indent=2, default=str), encoding="utf-8"
            )
            temporary.rename(place)
    except OSError as error:
        fault = disk_fault(error)
        if fault is None:
            raise
        # The run has its weights.
        log.warning("%s: not kept for other jobs: %s", ", ".join(stages), fault)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def is_whole(place: Path, parts: Mapping[str, Any], what: str) -> bool:
    """Whether `keeping` left ``place`` and nothing has happened to it since; for a block of `alone`.

    What is damaged is named in the log and removed, so that it is trained again.

    Args:
        place: of ``parts``.
        parts: what made the weights.
        what: the weights are called.
    """
    if not place.exists():
        return False
    damage = _damage(place, parts)
    if damage is None:
        return True
    log.warning(
        "%s: what an earlier job kept in %s is damaged (%s); it is trained again", what, place, damage
    )
    if place.is_dir():
        shutil.rmtree(place)
    else:
        place.unlink()
    return False


def hand_over(place: Path, run: RunFolder, stage: str | None = None) -> None:
    """Give a run the log and the cost of what it takes from ``place``, as if it had trained that.

    Args:
        place: that `is_whole`.
        run: whose log holds nothing else.
        stage: what the run calls it where ``place`` holds one stage that may have another name; None keeps the names.
    """
    if (place / _LOG).exists():
        write_log(run.log_path, [{**row, "stage": stage or row["stage"]} for row in read_log(place / _LOG)])
    costs = json.loads((place / _COST).read_text(encoding="utf-8"))
    for name, cost in costs.items():
        run.record_cost(stage or name, cost)
    log.info("%s: trained by an earlier job (%s)", stage or ", ".join(costs), place.name)


def _damage(place: Path, parts: Mapping[str, Any]) -> str | None:
    """What is wrong with a folder; None where nothing is."""
    try:
        made_from = json.loads((place / _MADE_FROM).read_text(encoding="utf-8"))
        if made_from["parts"] != json.loads(json.dumps(parts, default=str)):
            return "made from something else"
        files = made_from["files"]
        found = _files_of(place)
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{_MADE_FROM}: {error}"
    for name in sorted({*files, *found}):
        if name not in found:
            return f"{name} is missing"
        if files.get(name) != found[name]:
            return f"{name} is not as it was written"
    return None


def _files_of(folder: Path) -> dict[str, str]:
    """The hash of every file of a folder but of the one that holds them."""
    return {
        path.relative_to(folder).as_posix(): file_fingerprint(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != _MADE_FROM
    }
