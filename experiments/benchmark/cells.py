"""The command line of a benchmark, its cells, and the processes that they run in."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from command_line import WrongUse

# The process keeps the memory that it has touched. Otherwise, on a CPU, a large part of a step would go into returning
# memory after every large tensor and faulting it in again, on both sides; neither side should be judged by that.
KEEP_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": str(4 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 40),
    "MALLOC_TOP_PAD_": str(64 << 20),
}
# Every large tensor is returned once it is freed, so that the process's peak is the peak of what is in use.
RETURN_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(64 << 10)}
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


def read_cells(
    arguments: Sequence[str], defaults: Mapping[str, Any], choices: Mapping[str, Sequence[Any]]
) -> Iterator[dict[str, Any]]:
    """One dict of settings for every combination of the values given.

    Args:
        arguments: ``key=value`` or ``key=value,value,...``.
        defaults: every key with its default value, which sets the type of its values.
        choices: the allowed values of keys that are limited; a range for whole numbers.

    Raises:
        WrongUse: an unknown key, or a value that is not allowed.
    """
    values = {key: [default] for key, default in defaults.items()}
    for argument in arguments:
        key, separator, text = argument.partition("=")
        if not separator or key not in defaults:
            raise WrongUse(f"{argument!r} is not key=value with one of the keys {', '.join(defaults)}")
        values[key] = [_value(key, part, type(defaults[key]), choices.get(key)) for part in text.split(",")]
    for combination in itertools.product(*values.values()):
        yield dict(zip(values, combination, strict=True))


def _value(key: str, text: str, kind: type, allowed: Sequence[Any] | None) -> Any:
    try:
        value = {"true": True, "false": False}[text.lower()] if kind is bool else kind(text)
    except (KeyError, ValueError):
        raise WrongUse(f"{key}={text} is no {kind.__name__}") from None
    if isinstance(allowed, range) and value not in allowed:
        raise WrongUse(f"{key}={text} is not between {allowed[0]} and {allowed[-1]}")
    if allowed is not None and value not in allowed:
        raise WrongUse(f"{key}={text} is not one of {', '.join(map(str, allowed))}")
    return value


def in_process(
    module: str, job: str, settings: Mapping[str, Any], malloc: Mapping[str, str] = KEEP_MEMORY
) -> dict[str, Any]:
    """Run a job of a module of this folder in a process of its own, and return its result.

    With a process for each cell, all cells start alike, the allocator is set before torch is loaded, and the peak of
    memory belongs to one cell.

    Raises:
        RuntimeError: the job failed; its output went to stderr.
    """
    path = os.pathsep.join(filter(None, [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-m", f"benchmark.{module}", job, json.dumps(settings)],
        env={**os.environ, **malloc, **OFFLINE, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        text=True,
    )
    if done.returncode != 0:
        raise RuntimeError(f"the job {job} of {module} ended with status {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])


def run_cells(
    arguments: Sequence[str],
    defaults: Mapping[str, Any],
    choices: Mapping[str, Sequence[Any]],
    measure: Callable[[dict[str, Any]], dict[str, Any]],
) -> int:
    """Print the line of every cell; the status is 2 for a wrong command line and 1 if a cell failed."""
    try:
        for cell in list(read_cells(arguments, defaults, choices)):
            print(json.dumps(measure(cell)), flush=True)
    except WrongUse as error:
        print(error, file=sys.stderr)
        return 2
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 1
    return 0
