"""Times one GRPO step of mllmrec and one of TRL, alternately in one process; one JSON line per cell.

    python experiments/bench_step.py size=S prompt_len=1024 completion_len=16 group=8 prompts=2 repeats=5

Several values, separated by commas, make several cells. ``experiments/speed.md`` says what is measured and how.
"""

from __future__ import annotations

import sys
from typing import Any

from benchmark.cells import in_process, run_cells

DEFAULTS: dict[str, Any] = {
    "size": "S",
    "prompt_len": 1024,
    "completion_len": 16,
    "group": 8,
    "prompts": 2,  # per step
    "repeats": 5,
    "warmup": 1,  # steps of each side before the first that counts
    "rollout": "free",
    "candidates": 10,  # a constrained or enumerated rollout gives the answer of one of these
    "beta": 0.1,
    "dtype": "float32",
    "threads": 0,  # 0: torch's own choice
    "trl_micro_batch": 4,
    "library": "onednn",  # of our products in single precision on a CPU; mkl: PyTorch's own, which TRL has anyway
    "stock": False,  # whether TRL is also timed with its own defaults
}
CHOICES = {
    "size": ("XS", "S", "M", "0.6B", "4B"),
    "rollout": ("free", "constrained", "enumerate"),
    "dtype": ("float32", "bfloat16"),
    "library": ("onednn", "mkl"),
    "prompt_len": range(2, 30_001),
    "completion_len": range(5, 10_001),  # an id of three tokens, a title and the end
    "group": range(2, 1001),
    "prompts": range(1, 1001),
    "repeats": range(1, 1001),
    "warmup": range(1001),
    "candidates": range(2, 1001),
    "threads": range(1025),
    "trl_micro_batch": range(1, 1001),
}

SAID_BY_THE_JOB = ("threads", "trl_micro_batch", "stock")


def measure(cell: dict[str, Any]) -> dict[str, Any]:
    """One cell's line."""
    found = in_process("step_jobs", "time_steps", cell)
    found["peak_memory_mb"] = {
        **in_process("step_jobs", "memory_of_ours", cell),
        **in_process("step_jobs", "memory_of_trl", cell),
    }
    if cell["stock"]:
        found.update(in_process("step_jobs", "time_stock", cell))
    return {**{key: value for key, value in cell.items() if key not in SAID_BY_THE_JOB}, **found}


if __name__ == "__main__":
    sys.exit(run_cells(sys.argv[1:], DEFAULTS, CHOICES, measure))
