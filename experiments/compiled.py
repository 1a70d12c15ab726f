"""Times the update of a GRPO step with and without torch.compile on the decoder layers; one JSON line per way.

    python experiments/compiled.py size=S prompt_len=256 completion_len=16 threads=1

``plain`` and ``shared_prefix`` are the package's engines. ``compiled_plain`` is ``plain`` with every decoder layer compiled by
``torch.nn.Module.compile`` for shapes that change. The rollouts are the same, and only their update is timed: scores,
loss and gradients. The first update compiles, so it is timed apart. ``experiments/speed.md`` has what came out.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median

import torch
from benchmark.our_side import OurSide, largest_error
from command_line import WrongUse, read_settings
from torch import Tensor

from mllmrec.engine.base import Engine
from mllmrec.engine.plain import Plain
from mllmrec.engine.shared_prefix import SharedPrefix
from mllmrec.rl.batch import RolloutBatch

WAYS = ("plain", "compiled_plain", "shared_prefix")


@dataclass(frozen=True)
class Settings:
    """The command line."""

    size: str = "S"  # of the model, as in benchmark.models
    prompt_len: int = 256
    completion_len: int = 16
    group: int = 8
    prompts: int = 2  # per step
    repeats: int = 3
    micro_batch: int = 16  # sequences at once
    threads: int = 1


def time_updates(
    ours: OurSide, engine: Engine, rollouts: Sequence[RolloutBatch], micro_batch: int
) -> tuple[list[float], list[Tensor]]:
    """Seconds of each update, and the gradients of the last."""
    seconds: list[float] = []
    gradients: list[Tensor] = []
    step = ours.step_with(engine, micro_batch)
    for batch in rollouts:
        began = time.perf_counter()
        gradients = ours.gradients(step, replace(batch, known=None))
        seconds.append(time.perf_counter() - began)
    return seconds, gradients


def main() -> int:
    """Print a line for each way."""
    try:
        given = read_settings(Settings, sys.argv[1:], {})
    except WrongUse as error:
        print(error, file=sys.stderr)
        return 2
    torch.set_num_threads(given.threads)
    cell = {
        "size": given.size,
        "prompt_len": given.prompt_len,
        "completion_len": given.completion_len,
        "group": given.group,
        "prompts": given.prompts,
        "candidates": 10,
        "rollout": "free",
        "dtype": "float32",
        "beta": 0.0,
    }
    expected: list[Tensor] = []
    for way in WAYS:
        ours = OurSide(cell, given.repeats + 2)
        # Drawn before anything is compiled: torch.compile cannot trace the products of the shared-prefix engine.
        rollouts = [ours.training.collect(ours.batches[step], step) for step in range(given.repeats + 1)]
        if way == "compiled_plain":
            for layer in ours.policy.model.get_base_model().model.layers:
                layer.compile(dynamic=True)
        engine = SharedPrefix() if way == "shared_prefix" else Plain()
        seconds, found = time_updates(ours, engine, rollouts, given.micro_batch)
        expected = expected or found
        print(
            json.dumps(
                {
                    "way": way,
                    "first_s": seconds[0],
                    "median_s": median(seconds[1:]),
                    "gradient_error": largest_error(found, expected),
                    "torch": torch.__version__,
                }
            ),
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
