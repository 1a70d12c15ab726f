"""The cost of a phase: seconds, memory, tokens read and generated."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from types import TracebackType

import torch

_STATUS = Path("/proc/self/status")
_CLEAR_REFERENCES = Path("/proc/self/clear_refs")


def _reset_host_peak() -> None:
    try:
        _CLEAR_REFERENCES.write_text("5", encoding="ascii")
    except OSError:
        # The file exists only on Linux, and some containers forbid writing it: the peak then covers the whole process.
        return


def _host_peak_mb() -> float:
    if _STATUS.exists():
        for line in _STATUS.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 1024


class CostMeter:
    """Measures a block: ``with CostMeter() as meter: ...; meter.generated_tokens += n``, then `cost`.

    ``peak_memory_mb`` is the largest sum of allocated tensors on the GPU, if there is one. Otherwise it is the largest
    resident size of this process, including Python, the libraries and the data. Systems other than Linux do not let a
    process reset its peak; there it is the peak since the process started.
    """

    def __init__(self) -> None:
        self.generated_tokens = 0
        self.prompts = self.prompt_tokens = 0  # read, and the tokens in all of them
        self.step_seconds: Sequence[float] = ()  # of every step, if there were steps
        self.earlier = 0.0  # seconds that an earlier attempt at the job spent on the same steps

    def __enter__(self) -> CostMeter:
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        else:
            _reset_host_peak()
        self._started = time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
            self._peak_mb = torch.cuda.max_memory_allocated() / 2**20
        else:
            self._peak_mb = _host_peak_mb()
        self._seconds = time.perf_counter() - self._started

    def cost(self) -> dict[str, float | int]:
        """``seconds``, ``generated_tokens`` and ``peak_memory_mb`` of the finished block.

        If prompts were read, it also has ``tokens_per_prompt`` (a mean). If there were steps, it has ``seconds_per_step``
        (a median, so that neither the first step nor the rankings between steps matter).
        """
        found: dict[str, float | int] = {
            "seconds": round(self.earlier + self._seconds, 3),
            "generated_tokens": int(self.generated_tokens),
            "peak_memory_mb": round(self._peak_mb, 1),
        }
        if self.prompts:
            found["tokens_per_prompt"] = round(self.prompt_tokens / self.prompts, 1)
        if self.step_seconds:
            found["seconds_per_step"] = round(median(self.step_seconds), 4)
        return found
