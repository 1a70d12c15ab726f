"""Compares local models in batches with one request at a time, alternately in one process; one JSON line per cell.

    python experiments/bench_batching.py what=hf,vlm size=S batch=8 items=16 repeats=3

Several values, separated by commas, make several cells. ``experiments/batching.md`` says what is measured and how.
"""

from __future__ import annotations

import sys
from typing import Any

from benchmark.cells import in_process, run_cells

DEFAULTS: dict[str, Any] = {
    "what": "hf",  # texts of the reasoner hf, or captions of caption=vlm
    "size": "S",
    "batch": 8,
    "items": 16,  # texts of each side in each repeat
    "prompt_len": 256,  # tokens of hf's longest prompt; the shortest has half as many
    "image_side": 224,  # pixels of the longer side of the images of vlm
    "answer_len": 32,
    "repeats": 3,
    "dtype": "float32",
    "threads": 0,  # 0: torch's own choice
}
CHOICES = {
    "what": ("hf", "vlm"),
    "size": ("XS", "S", "M", "0.6B", "4B"),
    "batch": range(2, 1025),
    "items": range(2, 10_001),
    "prompt_len": range(4, 30_001),
    "image_side": range(32, 4097),
    "answer_len": range(1, 4097),
    "repeats": range(1, 1001),
    "dtype": ("float32", "bfloat16"),
    "threads": range(1025),
}


def measure(cell: dict[str, Any]) -> dict[str, Any]:
    """One cell's line."""
    return {**cell, **in_process("batching_jobs", "texts", cell)}


if __name__ == "__main__":
    sys.exit(run_cells(sys.argv[1:], DEFAULTS, CHOICES, measure))
