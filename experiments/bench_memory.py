"""Memory and seconds of a training step: whole, checkpointed and streamed passes side by side; one JSON line per cell.

    python experiments/bench_memory.py model=S prompt_len=4096 ways=whole+checkpointing+streambp:256

``experiments/memory.md`` says what is measured and how.
"""

from __future__ import annotations

import sys
from statistics import median
from typing import Any

from benchmark.cells import RETURN_MEMORY, in_process, run_cells

DEFAULTS: dict[str, Any] = {
    "model": "S",  # random weights of this size, or a folder
    "train": "lora",  # or all: all weights
    "prompts": 1,  # per step
    "micro_batch": 1,  # prompts through the model at once
    "prompt_len": 4096,
    "completion_len": 16,
    "group": 1,  # completions of a prompt
    # whole, checkpointing, streambp:TOKENS, plain or plain-checkpointing, each with /bfloat16 or /mixed if not in float32.
    "ways": "whole+checkpointing+streambp:256",
    "repeats": 3,
    "warmup": 1,  # steps of each way before the first that counts
    "threads": 0,  # 0: torch's own choice
}
CHOICES = {
    "train": ("lora", "all"),
    "prompts": range(1, 1001),
    "micro_batch": range(1, 1001),
    "prompt_len": range(2, 30_001),
    "completion_len": range(1, 10_001),
    "group": range(1, 1001),
    "repeats": range(1, 1001),
    "warmup": range(1001),
    "threads": range(1025),
}


def measure(cell: dict[str, Any]) -> dict[str, Any]:
    """One cell's line."""
    ways = cell["ways"].split("+")
    timed = in_process("memory_jobs", "time_ways", cell)
    kept = {
        way: in_process("memory_jobs", "memory_of_way", {**cell, "ways": way}, RETURN_MEMORY) for way in ways
    }
    first = ways[0]
    found = {
        way: {
            **kept[way],
            "seconds": median(timed["seconds"][way]),
            "all_seconds": timed["seconds"][way],
            "gradient_error": timed["gradient_errors"][way],
            "of_first": {
                "peak": kept[way]["peak_mb"] / kept[first]["peak_mb"],
                "saved": kept[way]["saved_mb"] / kept[first]["saved_mb"],
                # Ways take turns, so each round has its own ratio, whatever else the machine did meanwhile.
                "seconds": median(
                    own / base
                    for own, base in zip(timed["seconds"][way], timed["seconds"][first], strict=True)
                ),
            },
        }
        for way in ways
    }
    return {**cell, "found": found, "load": timed["load"], "versions": timed["versions"]}


if __name__ == "__main__":
    sys.exit(run_cells(sys.argv[1:], DEFAULTS, CHOICES, measure))
