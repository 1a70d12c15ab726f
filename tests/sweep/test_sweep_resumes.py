from __future__ import annotations

import os
import signal
import time
from pathlib import Path

FAILING = ["candidates.num_negatives-5000+seed-0", "candidates.num_negatives-5000+seed-1"]


def finished(sweep: Path) -> dict[str, int]:
    """Jobs that finished, and when."""
    return {path.parent.name: path.stat().st_mtime_ns for path in sweep.glob("*/finished.json")}


def test_a_killed_sweep_of_eight_goes_on_where_it_stopped(tmp_path, write_experiment, start, finish) -> None:
    # 40 items are too few for 5,000 negatives; only the loaded data shows this.
    write_experiment("eight", {"candidates.num_negatives": "4,5,5000,6", "seed": "0,1"})
    sweep = tmp_path / "sweeps" / "eight"
    killed = start("eight", "jobs=2", "report=false")
    deadline = time.monotonic() + 240
    while len(finished(sweep)) < 2:
        assert killed.poll() is None, killed.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    # The processes that it started notice within half a second.
    time.sleep(2)
    before = finished(sweep)
    assert 2 <= len(before) < 6

    status, output, errors = finish("eight", "jobs=1")
    assert status == 1, output + errors
    after = finished(sweep)
    good = [f"candidates.num_negatives-{number}+seed-{seed}" for number in range(4, 7) for seed in (0, 1)]
    assert sorted(after) == sorted(good)
    assert {name: after[name] for name in before} == before
    assert "6 of 8 jobs finished" in output
    named = [line for line in output.splitlines() if line.startswith("failed: ")]
    assert len(named) == 2
    for line, name in zip(named, FAILING, strict=True):
        assert line.startswith(f"failed: sweeps/eight/{name}: ")
        assert "negatives" in line
    assert (sweep / "report" / "report.html").exists()
    settings = (sweep / good[0] / ".hydra" / "overrides.yaml").read_text(encoding="utf-8")
    assert "share_stages=True" in settings
