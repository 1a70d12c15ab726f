"""Measures users ranked per second: by likelihood in two ways, and by generating; one JSON line per cell.

    python experiments/bench_rank.py size=S prompt_len=1024 candidates=10,100,1000 answer_len=16 repeats=3

Several values, separated by commas, make several cells. ``experiments/speed.md`` says what is measured and how.
"""

from __future__ import annotations

import sys
from typing import Any

from benchmark.cells import in_process, run_cells

DEFAULTS: dict[str, Any] = {
    "size": "S",
    "prompt_len": 1024,
    "candidates": 10,
    "answer_len": 16,
    "repeats": 3,  # users that count, after one user of warm-up
    "dtype": "float32",
    "threads": 0,  # 0: torch's own choice
}
CHOICES = {
    "size": ("XS", "S", "M", "0.6B", "4B"),
    "dtype": ("float32", "bfloat16"),
    "prompt_len": range(2, 30_001),
    "candidates": range(2, 1001),
    "answer_len": range(4, 10_001),  # an id of three tokens and a title
    "repeats": range(1, 1001),
    "threads": range(1025),
}


def measure(cell: dict[str, Any]) -> dict[str, Any]:
    """One cell's line."""
    return {**cell, **in_process("rank_jobs", "rank", cell)}


if __name__ == "__main__":
    sys.exit(run_cells(sys.argv[1:], DEFAULTS, CHOICES, measure))
