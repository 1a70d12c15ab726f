from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from importlinter.cli import lint_imports

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"

# What evaluating, recommending, building reasoning and checking a configuration import.
WITHOUT_LIGHTNING = (
    "jobs.finished_run",
    "evaluation.protocols",
    "jobs.beside",
    "jobs.recommendation",
    "cot",
    "samples.prepare",
    "run.loggers",
)


def test_commands_that_train_nothing_do_not_wait_for_lightning() -> None:
    imports = ", ".join(f"mllmrec.{name}" for name in WITHOUT_LIGHTNING)
    code = f"import sys, {imports}; print('lightning' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]


def test_packages_import_only_what_is_below_them(capsys) -> None:
    status = lint_imports(str(PYPROJECT), no_cache=True)
    assert status == 0, capsys.readouterr().out
