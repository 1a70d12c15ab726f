"""Measures what the preparation of large data costs: seconds and peak memory of each step; one JSON line per cell.

    python experiments/large_data.py interactions=1000000,3000000,10000000 files=parquet,csv until=candidates

Several values, separated by commas, make several cells. ``experiments/large_data.md`` says what is measured and how.
"""

from __future__ import annotations

import sys
from typing import Any

from benchmark.cells import in_process, run_cells
from benchmark.large_jobs import STEPS

DEFAULTS: dict[str, Any] = {
    "interactions": 1_000_000,  # N; a tenth as many users, a twentieth as many items
    "files": "parquet",
    "until": "candidates",  # the last step that is measured
    "k_core": 0,
    "evaluated": 0,  # users that are ranked; 0: all
    "seed": 0,
}
CHOICES = {
    "interactions": range(1000, 100_000_001),
    "files": ("parquet", "csv"),
    "until": STEPS,
    "k_core": range(101),
    "evaluated": range(100_000_001),
}


def measure(cell: dict[str, Any]) -> dict[str, Any]:
    """One cell's line."""
    return {**cell, **in_process("large_jobs", "measure", cell, malloc={})}


if __name__ == "__main__":
    sys.exit(run_cells(sys.argv[1:], DEFAULTS, CHOICES, measure))
