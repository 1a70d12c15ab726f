"""Folders of trained weights kept for other jobs: what several runs have in common is trained once.

A folder is named by the fingerprint of everything that made its weights, this package's own source and its libraries
among it. It is whole or absent, and jobs that need the same one at the same time wait for the one that trains it.
"""

from __future__ import annotations

import csv
import hashlib
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

from mllmrec.cache import atomic_path
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


def tell(place: Path, run: RunFolder, stage: str | None = None) -> None:
    """Give a run the log and the cost of what it takes from ``place``, as if it had trained that.

    Args:
        place: that `keeping` made.
        run: whose log holds nothing else.
        stage: what the run calls it where ``place`` holds one stage that may have another name; None keeps the names.
    """
    if (place / _LOG).exists():
        with (place / _LOG).open(newline="", encoding="utf-8") as stream:
            reader = csv.DictReader(stream)
            rows = [{**row, "stage": stage or row["stage"]} for row in reader]
        with (
            atomic_path(run.log_path) as temporary,
            temporary.open("w", newline="", encoding="utf-8") as stream,
        ):
            writer = csv.DictWriter(stream, reader.fieldnames or [], lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    costs = json.loads((place / _COST).read_text(encoding="utf-8"))
    for name, cost in costs.items():
        run.record_cost(stage or name, cost)
    log.info("%s: trained by an earlier job (%s)", stage or ", ".join(costs), place.name)


class Digest:
    """A hash of named parts (16 hexadecimal digits)."""

    def __init__(self) -> None:
        self._hash = hashlib.blake2b(digest_size=8)

    def add(self, name: str, value: bytes) -> None:
        """Take up a part; their order counts."""
        # With its length, so that no two lists of parts are one text.
        self._hash.update(f"{name}:{len(value)}:".encode())
        self._hash.update(value)

    def hexdigest(self) -> str:
        """The hash of what was added."""
        return self._hash.hexdigest()


def code_fingerprints() -> dict[str, Any]:
    """The versions of the libraries that train, and a hash of this package's source."""
    return {"libraries": {name: _version(name) for name in _LIBRARIES}, "source": _source_fingerprint()}


@cache
def _source_fingerprint() -> str:
    import mllmrec

    root = Path(mllmrec.__file__).parent
    digest = hashlib.blake2b(digest_size=8)
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"
