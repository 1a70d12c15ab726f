"""Reads and writes the rows of a `log.csv`; importing this does not wait for Lightning."""

from __future__ import annotations

import csv
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from mllmrec.cache import atomic_path


def read_log(path: Path) -> list[dict[str, Any]]:
    """The rows of a `log.csv`: column → text, without empty values."""
    with path.open(newline="", encoding="utf-8") as stream:
        return [{key: value for key, value in row.items() if value != ""} for row in csv.DictReader(stream)]


def write_log(path: Path, rows: Collection[Mapping[str, Any]]) -> None:
    """Write a whole `log.csv`; its header is the union of the rows' columns."""
    header = list(dict.fromkeys(["stage", "step", "seconds", *(key for row in rows for key in row)]))
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, header, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
