"""Compares visual tokens with captions: tokens, seconds and memory of a step; one JSON line per cell.

    python experiments/efficiency.py size=S history=5,10,20 candidates=10 image_side=224 caption_words=20 repeats=3

Several values, separated by commas, make several cells. ``experiments/efficiency.md`` says what is measured and how.
"""

from __future__ import annotations

import sys
from typing import Any

from benchmark.cells import in_process, run_cells

DEFAULTS: dict[str, Any] = {
    "size": "S",
    "history": 10,
    "candidates": 10,
    "image_side": 224,  # pixels of the square images
    "min_pixels": 65_536,  # smaller images are enlarged to this many; Qwen3-VL's published value
    "caption_words": 20,
    "completion_len": 16,
    "group": 8,
    "repeats": 3,
    "warmup": 1,  # passes and steps of each form before the first that counts
    "threads": 0,  # 0: torch's own choice
}
CHOICES = {
    "size": ("XS", "S", "M", "0.6B", "4B"),
    "history": range(1, 1001),
    "candidates": range(2, 1001),
    "image_side": range(32, 4097),
    "min_pixels": range(1024, 16_777_217),
    "caption_words": range(1, 1001),
    "completion_len": range(1, 10_001),
    "group": range(2, 1001),
    "repeats": range(1, 1001),
    "warmup": range(1001),
    "threads": range(1025),
}


def measure(cell: dict[str, Any]) -> dict[str, Any]:
    """One cell's line."""
    found = in_process("visual_jobs", "time_forms", cell)
    # Completions go one at a time, so two have the same peak as a larger group.
    two = {**cell, "group": 2}
    memory = {
        **in_process("visual_jobs", "memory_of_text", two),
        **in_process("visual_jobs", "memory_of_visual", two),
    }
    found["peak_memory_mb"] = memory
    found["ratio"]["memory"] = memory["visual"] / memory["text"]
    return {**{key: value for key, value in cell.items() if key != "threads"}, **found}


if __name__ == "__main__":
    sys.exit(run_cells(sys.argv[1:], DEFAULTS, CHOICES, measure))
