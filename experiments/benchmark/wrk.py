"""A load of `wrk`, a public tool in C, with many different requests."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# Every connection sends the next request as soon as it has the answer to the last one.
SCRIPT = """
local requests = {}
function init(args)
  for body in io.lines(args[1]) do
    requests[#requests + 1] = wrk.format("POST", nil, {["Content-Type"] = "application/json"}, body)
  end
end
function request() return requests[math.random(#requests)] end
function done(summary, latency)
  local errors = summary.errors
  print(string.format('\\n{"answers": %d, "seconds": %f, "p50": %f, "p99": %f, "status": %d, "lost": %d}',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    errors.status, errors.connect + errors.read + errors.write + errors.timeout))
end
"""


def load(url: str, bodies: Sequence[Any], users: int, seconds: float) -> dict[str, Any]:
    """What wrk measured: answers, seconds, ``p50`` and ``p99`` in ms, and how many had an error's status or were lost.

    Raises:
        RuntimeError: wrk is missing or failed.
    """
    if shutil.which("wrk") is None:
        raise RuntimeError("wrk is not installed: apt-get install wrk")
    with tempfile.TemporaryDirectory() as folder:
        script, file = Path(folder) / "load.lua", Path(folder) / "bodies"
        script.write_text(SCRIPT)
        file.write_text("".join(f"{json.dumps(body)}\n" for body in bodies))
        size = ["--threads=1", f"--connections={users}", f"--duration={seconds:.0f}s", "--timeout=60s"]
        done = subprocess.run(
            ["wrk", *size, f"--script={script}", url, "--", str(file)],
            capture_output=True,
            text=True,
        )
    if done.returncode:
        raise RuntimeError(f"wrk failed: {done.stderr or done.stdout}")
    return json.loads(done.stdout.splitlines()[-1])
