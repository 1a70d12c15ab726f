"""The table of faults names tests and pages that exist."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_row_names_a_test_or_a_page_that_exists():
    script = [sys.executable, str(ROOT / "experiments" / "faults.py")]
    done = subprocess.run([*script, "run=false"], capture_output=True, text=True, check=True)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in done.stdout.splitlines()[2:]]
    assert {row[0] for row in rows} == {"resume", "training", "vllm", "sweeps"}
    for area, fault, tried, *_ in rows:
        if "::" in tried:
            path, test = tried.strip("`").split("::")
            assert f"def {test}(" in (ROOT / path).read_text(encoding="utf-8"), (area, fault)
        elif tried != "not run here":
            assert tried.startswith("["), (area, fault)
            assert (ROOT / "experiments" / tried[1:].partition("]")[0]).is_file(), (area, fault)
    wrong = subprocess.run([*script, "areas=weather"], capture_output=True, text=True, check=False)
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1)
