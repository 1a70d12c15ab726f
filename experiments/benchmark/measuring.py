"""Clocks, peaks, and the least that a step must compute."""

from __future__ import annotations

import json
import logging
import math
import platform
import resource
import sys
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from importlib.metadata import version
from typing import Any

import torch

from benchmark.models import SIZES
from mllmrec.engine.products import product

PARTS = ("rollout", "reference", "update")


def device() -> torch.device:
    """The GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def now() -> float:
    """Seconds, read after the GPU has finished all its work."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


class StepClock:
    """Seconds of whole steps and of their parts; ``update`` is all but rollout and reference.

    It includes rewards, forward, backward and optimiser, and for TRL its data loader.
    """

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.parts: dict[str, list[float]] = {part: [] for part in PARTS}
        self._running: dict[str, float] = defaultdict(float)
        self._begin = now()

    def begin(self) -> None:
        """Start timing a step."""
        self._running.clear()
        self._begin = now()

    def end(self) -> None:
        """Stop timing the step."""
        seconds = now() - self._begin
        known = {part: self._running[part] for part in PARTS[:-1]}
        self.seconds.append(seconds)
        for part, share in {**known, "update": seconds - sum(known.values())}.items():
            self.parts[part].append(share)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time the block as a part of the running step."""
        begin = now()
        yield
        self._running[name] += now() - begin


def matmul_peak(dtype: str, size: int = 2048, tries: int = 7) -> float:
    """Floating-point operations per second of the fastest of some large square matrix products, by either library."""
    size = 8192 if torch.cuda.is_available() else size
    left, right = torch.randn(2, size, size, device=device(), dtype=getattr(torch, dtype))
    best = math.inf
    for multiply in (torch.mm, product) * tries:
        begin = now()
        multiply(left, right)
        best = min(best, now() - begin)
    return 2 * size**3 / best


def layer_tokens(settings: Mapping[str, Any], side: str, decided: float) -> float:
    """Tokens that one prompt sends through the linear layers in a step; a backward pass counts like a forward pass.

    With LoRA, a backward pass through a frozen layer is one product with the same weight. There are P prompt tokens, T
    completion tokens, G rollouts and C candidates. D (``decided``) is the mean number of an answer's tokens up to the last
    one that its beginning leaves open; later tokens are forced and need not run. With beta 0 the reference's share is gone.

    - TRL: decode, reference, forward and backward of every sequence: 4 G (P + T).
    - ours, free: the rollout's pass over the prompt serves the update. So forward, reference and backward of the prompt
      and four passes of every completion: 3 P + 4 G T.
    - ours, constrained: one pass with its graph scores all answers, and the reference scores at most G of them:
      3 P + 2 C D + min(G, C) D. (Fewer if some draws are equal.)
    - ours, enumerate: 3 P + 3 C D.
    """
    prompt, length, group = settings["prompt_len"], settings["completion_len"], settings["group"]
    answers = settings["candidates"] * decided
    reference = 1 if settings["beta"] > 0 else 0
    if side == "trl":
        return (3 + reference) * group * (prompt + length)
    if settings["rollout"] == "free":
        return (2 + reference) * prompt + (3 + reference) * group * length
    if settings["rollout"] == "constrained":
        drawn = min(group, settings["candidates"]) * decided
        return (2 + reference) * prompt + 2 * answers + reference * drawn
    return (2 + reference) * prompt + (2 + reference) * answers


def step_flops(settings: Mapping[str, Any], decided: float) -> float:
    """Operations of our whole step: `layer_tokens`, and the head if a token is scored against the whole vocabulary.

    Attention, norms, LoRA and sampling are not counted, and neither is the head over competing tokens only.
    """
    shape = SIZES[settings["size"]]
    attention = shape.hidden * shape.head_size * 2 * (shape.heads + shape.kv_heads)
    layers = shape.layers * (attention + 3 * shape.hidden * shape.feed_forward)
    flops = 2.0 * layers * layer_tokens(settings, "ours", decided)
    if settings["rollout"] == "free":
        passes = 4 if settings["beta"] > 0 else 3
        rows = passes * settings["group"] * settings["completion_len"]
        flops += 2.0 * rows * shape.hidden * shape.vocabulary
    return flops * settings["prompts"]


def added_memory(work: Callable[[], None]) -> float:
    """MiB: on a GPU the peak allocation, model included; on a CPU what ``work`` adds to the process's peak.

    On a CPU this is meaningful only in a process that has done nothing but build what ``work`` needs.
    """
    if torch.cuda.is_available():
        work()
        return torch.cuda.max_memory_allocated() / 2**20
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    work()
    added = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return added / (2**20 if sys.platform == "darwin" else 2**10)


def versions(*others: str) -> dict[str, str]:
    """Versions of everything that the figures depend on."""
    names = ("torch", "transformers", "peft", "mllmrec", *others)
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


def run_job(*jobs: Callable[[Mapping[str, Any]], dict[str, Any]]) -> None:
    """Run the job that the command line names, with its settings, and print the result."""
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    settings = json.loads(sys.argv[2])
    if settings["threads"]:
        torch.set_num_threads(settings["threads"])
    if settings.get("library") == "mkl":
        torch.backends.mkldnn.set_flags(_enabled=False)
    # Trainers print; stdout is for the result.
    with redirect_stdout(sys.stderr):
        result = {job.__name__: job for job in jobs}[sys.argv[1]](settings)
    print(json.dumps(result))
