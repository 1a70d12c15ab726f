"""Folders of trained weights kept for other jobs: what several runs have in common is trained once.

A folder is named by the fingerprint of everything that made its weights, this package's own source and its libraries
among it. It is whole or absent, and jobs that need the same one at the same time wait for the one that trains it.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from mllmrec.cache import Digest
from mllmrec.csv_log import read_log, write_log
from mllmrec.run_folder import RunFolder

log = logging.getLogger(__name__)

_LIBRARIES = ("torch", "transformers", "peft", "tokenizers", "lightning")
_LOG, _COST = "log.csv", "cost.json"


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
def keeping(place: Path, run: RunFolder, stages: Sequence[str]) -> Iterator[Path]:
    """Yield a folder to write weights to, which becomes ``place``; log and cost of the run so far go with them.

    Args:
        place: named by what made the weights.
        run: that trained them.
        stages: of the run that they come from.
    """
    temporary = place.with_name(f".{place.name}.part")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    yield temporary
    if run.log_path.exists():
        shutil.copyfile(run.log_path, temporary / _LOG)
    costs = run.metrics()["cost"]
    known = json.dumps({stage: costs[stage] for stage in stages})
    (temporary / _COST).write_text(known, encoding="utf-8")
    temporary.rename(place)


def hand_over(place: Path, run: RunFolder, stage: str | None = None) -> None:
    """Give a run the log and the cost of what it takes from ``place``, as if it had trained that.

    Args:
        place: that `keeping` made.
        run: whose log holds nothing else.
        stage: what the run calls it where ``place`` holds one stage that may have another name; None keeps the names.
    """
    if (place / _LOG).exists():
        write_log(run.log_path, [{**row, "stage": stage or row["stage"]} for row in read_log(place / _LOG)])
    costs = json.loads((place / _COST).read_text(encoding="utf-8"))
    for name, cost in costs.items():
        run.record_cost(stage or name, cost)
    log.info("%s: trained by an earlier job (%s)", stage or ", ".join(costs), place.name)


def code_fingerprints() -> dict[str, Any]:
    """The versions of the libraries that train, and a hash of this package's source."""
    return {"libraries": {name: _version(name) for name in _LIBRARIES}, "source": _source_fingerprint()}


@cache
def _source_fingerprint() -> str:
    root = Path(__file__).parent
    digest = Digest()
    for path in sorted(root.rglob("*.py")):
        digest.add(path.relative_to(root).as_posix(), path.read_bytes())
    return digest.hexdigest()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"
