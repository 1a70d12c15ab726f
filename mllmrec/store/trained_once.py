"""Folders of trained weights kept for other jobs, so that runs train common parts only once.

The fingerprint of everything that made the weights names the folder. A folder is complete or absent: it lists its files with
their hashes, and weights that do not match are trained again. If several jobs need the same weights at the same time, one
trains them and the others wait.
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
from mllmrec.errors.disk import about, disk_fault
from mllmrec.run.folder import RunFolder
from mllmrec.run.log_rows import read_log, write_log

log = logging.getLogger(__name__)

_LOG, _COST = "log.csv", "cost.json"
# The parts that the weights were made from, and the hash of every other file in the folder.
_MADE_FROM = "made_from.json"


def place_of(folder: Path, parts: Mapping[str, Any]) -> Path:
    """The place in ``folder`` of weights that were made from these parts."""
    return folder / fingerprint(parts)


@contextmanager
def alone(place: Path, what: str) -> Iterator[None]:
    """Keep other jobs from training the weights at ``place``, called ``what``, until the block ends."""
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
    """Yield a folder for weights, which becomes ``place``; it also stores log and cost of the run so far.

    If the disk cannot take the weights, nothing is kept, and a warning says so.

    Args:
        place: the place for ``parts``, empty so far.
        parts: everything that made the weights.
        run: the run that trained the weights.
        stages: the run's phases that the weights come from.
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
        # The run itself already has its weights.
        log.warning("%s: not kept for other jobs: %s", ", ".join(stages), fault)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def is_whole(place: Path, parts: Mapping[str, Any], what: str) -> bool:
    """Whether ``place`` is as `keeping` left it; call it in a block of `alone`.

    A damaged folder is named in the log and removed, so that its weights are trained again.

    Args:
        place: the place for ``parts``.
        parts: everything that made the weights.
        what: the name of the weights.
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
    """Give a run the log and the cost of the weights at ``place``, as if it had trained them.

    What the run has logged and measured of earlier phases itself stays.

    Args:
        place: a place that `is_whole`.
        run: the run.
        stage: the run's name for the single phase in ``place``, which may have another name there; None keeps the names.
    """
    if (place / _LOG).exists():
        own = read_log(run.log_path) if run.log_path.exists() else []
        known = {row["stage"] for row in own}
        given = [{**row, "stage": stage or row["stage"]} for row in read_log(place / _LOG)]
        write_log(run.log_path, [*own, *(row for row in given if row["stage"] not in known)])
    costs = json.loads((place / _COST).read_text(encoding="utf-8"))
    measured = run.metrics()["cost"]
    for name, cost in costs.items():
        if (stage or name) not in measured:
            run.record_cost(stage or name, cost)
    log.info("%s: trained by an earlier job (%s)", stage or ", ".join(costs), place.name)


def _damage(place: Path, parts: Mapping[str, Any]) -> str | None:
    """What is wrong with a folder; None if nothing is wrong."""
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
    """The hash of every file in a folder, except the file that holds the hashes."""
    return {
        path.relative_to(folder).as_posix(): file_fingerprint(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != _MADE_FROM
    }
