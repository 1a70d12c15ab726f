"""The properties of ``tests/properties`` on many new examples, until one fails. The suite itself tries 50 of each.

    python experiments/fuzz.py                  1000 examples of each property: minutes
    python experiments/fuzz.py examples=20000   as many of each

It prints how many examples of each property passed. A property that fails shows its smallest failing example.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from command_line import WrongUse, read_settings

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = "MLLMREC_FUZZ_EXAMPLES"  # read by tests/properties/conftest.py


@dataclass
class Settings:
    """``key=value`` arguments."""

    examples: int = 1000  # of each property


def counts(output: str) -> list[tuple[str, int, int]]:
    """(property, passed, failed examples) of each property, from what pytest and hypothesis printed."""
    found = []
    for name, told in re.findall(r"^(tests/\S+?::.+?):\n((?:\n|  .*\n)+)", output, flags=re.MULTILINE):
        numbers = re.findall(r"(\d+) passing, (\d+) failing", told)
        passed, failed = (
            (sum(map(int, column)) for column in zip(*numbers, strict=True)) if numbers else (0, 0)
        )
        found.append((name.rpartition("::")[2], passed, failed))
    return found


def main() -> int:
    """Run pytest on the properties and print the counts; its exit status."""
    try:
        settings = read_settings(Settings, sys.argv[1:], {})
    except WrongUse as error:
        print(error, file=sys.stderr)
        return 2
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-n0",
        "-p",
        "no:cacheprovider",
        "--hypothesis-show-statistics",
    ]
    done = subprocess.run(
        [*command, "tests/properties"],
        cwd=ROOT,
        env={**os.environ, EXAMPLES: str(settings.examples)},
        capture_output=True,
        text=True,
        check=False,
    )
    for name, passed, failed in counts(done.stdout):
        print(f"{passed:8,} passed {failed:4,} failed  {name}")
    if done.returncode:
        print(done.stdout[: done.stdout.find("Hypothesis Statistics")])
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
