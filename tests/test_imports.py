from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).parents[1]

# What evaluating, recommending, building reasoning, checking a configuration and a job that only counts import.
QUICK = (
    "jobs.finished_run",
    "evaluation.protocols",
    "jobs.beside",
    "jobs.recommendation",
    "cot",
    "samples.prepare",
    "run.loggers",
    "models.backbones",
    "engine.shared_prefix",
    "step.reference",
    "jobs.main",
    "jobs.baseline",
    "baselines.item_knn",
)
SLOW = ("lightning", "transformers", "peft", "matplotlib", "pandas", "sklearn", "openai", "wandb")


def test_commands_that_train_no_network_do_not_wait_for_its_libraries() -> None:
    imports = ", ".join(f"mllmrec.{name}" for name in QUICK)
    code = f"import sys, {imports}; print([name for name in {SLOW} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_main_job_needs_no_optional_package(tmp_path) -> None:
    text = (PROJECT / "pyproject.toml").read_text()
    optional = {"openai", "tenacity", "sklearn", "fastapi", "uvicorn", "gguf", "tensorboard", "trl"}
    assert all(
        name.replace("sklearn", "scikit-learn") in text.split("[project.optional-dependencies]")[1]
        for name in optional
    )
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({optional})); from mllmrec.train import main; "
        "sys.argv[1:] = ['debug=fast', 'cot_policy=none', 'warmup.max_steps=1', 'hydra.run.dir=run']; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "run" / "metrics.json").is_file()


def test_help_does_not_wait_for_the_checks_of_a_configuration() -> None:
    needless = ("pydantic", "mllmrec.config.checks", "torch")
    code = f"import sys, mllmrec.cli; print([name for name in {needless} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_packages_import_only_what_is_below_them() -> None:
    # In a process of its own, because import-linter switches off the loggers of the process that it runs in.
    code = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
