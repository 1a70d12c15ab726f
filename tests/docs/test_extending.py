"""The listings of docs/extending.md: their own tests, a run with all of them, and the package installed elsewhere."""

from __future__ import annotations

import inspect
import json
import os
import re
import runpy
import shlex
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

from mllmrec.config import CONFIG_DIR, check_config
from mllmrec.config.compose import compose_checked
from mllmrec.testing.trials import trial_faults

PROJECT = Path(__file__).resolve().parents[2]
PAGE = (PROJECT / "docs" / "extending.md").read_text(encoding="utf-8")
LISTINGS = dict(re.findall(r"^\*\*`(\S+)`\*\*\n\n```\w+\n(.*?)```", PAGE, flags=re.DOTALL | re.MULTILINE))
COMMANDS = [
    line for block in re.findall(r"```bash\n(.*?)```", PAGE, flags=re.DOTALL) for line in block.splitlines()
]
TESTS = [name for name in LISTINGS if name.startswith("tests/")]
FIRST, TESTED, ALL_PARTS, EXPERIMENT, SWEEP, REPORT = COMMANDS
TINY = [
    "backbone.hidden_size=32",
    "backbone.num_layers=1",
    "backbone.vocabulary=400",
    "eval.weighting=uniform",
    "eval.max_users=5",
    "eval.resamples=20",
    "heldout.users=0",
]


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A folder with everything that the page lists."""
    for name, text in LISTINGS.items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    for folder in ("ourlab", "ourlab/conf"):
        (tmp_path / folder / "__init__.py").touch()
    return tmp_path


@pytest.fixture
def importable(package: Path, import_from: Callable[[Path], None]) -> Path:
    import_from(package)
    return package


def run(folder: Path, *command: str) -> str:
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_page_is_linked_and_every_kind_of_part_has_its_listings() -> None:
    assert "docs/extending.md" in (PROJECT / "README.md").read_text(encoding="utf-8")
    parts = {name.split("/")[2] for name in LISTINGS if name.startswith("ourlab/conf/")}
    assert parts - {"variant", "experiment"} == {
        "reward",
        "advantage",
        "rollout",
        "method",
        "dataset",
        "caption",
    }
    assert len(TESTS) == len(parts - {"variant", "experiment"})
    # No listing is without its name.
    assert len(LISTINGS) == len(re.findall(r"^```(?:python|yaml|toml)$", PAGE, flags=re.MULTILINE))


@pytest.mark.parametrize("name", TESTS)
def test_the_listed_tests_pass(importable: Path, tmp_path: Path, name: str) -> None:
    tests = [
        (test, function)
        for test, function in runpy.run_path(str(importable / name)).items()
        if test.startswith("test_")
    ]
    assert tests
    for _, function in tests:
        function(**dict.fromkeys(inspect.signature(function).parameters, tmp_path))


def test_the_first_command_passes_the_checks(importable: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(importable)
    words = shlex.split(FIRST)
    assert words[:5] == ["python", "-m", "mllmrec.train", "--config-dir", "ourlab/conf"]
    result = compose_checked("train", words[5:], CONFIG_DIR, extra_dir="ourlab/conf")
    assert result.faults == []
    check_config(result.config, trial_faults)
    assert result.config.rollout._target_ == "ourlab.rollouts.SecondTry"


def test_the_package_is_found_by_tests_in_its_folder(package: Path) -> None:
    assert TESTED == "python -m pytest tests"
    run(package, sys.executable, *shlex.split(TESTED)[1:], "--collect-only", "-q", "-k", "advantages")


def test_the_preset_and_the_experiment_compose(importable: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(importable)
    python, m, module, name, *options, scale = shlex.split(EXPERIMENT)
    assert (python, m, module, options) == (
        "python",
        "-m",
        "mllmrec.sweep",
        ["--config-dir", "ourlab/conf"],
    )
    words = [f"experiment={name}", scale, "variant=bounded"]
    result = compose_checked("train", words, CONFIG_DIR, extra_dir="ourlab/conf")
    assert result.faults == []
    check_config(result.config, trial_faults)
    assert result.config.advantage._target_ == "ourlab.advantages.Bounded"
    assert result.config.grpo.beta == 0
    axes = yaml.safe_load(LISTINGS[f"ourlab/conf/experiment/{name}.yaml"])["hydra"]["sweeper"]["params"]
    assert axes["variant"] == "grpo,bounded"


@pytest.mark.slow
def test_all_parts_in_one_run(importable: Path, command: Callable[..., SimpleNamespace]) -> None:
    # 40 users with 6 of 30 songs each.
    generator = np.random.default_rng(0)
    lists = ["|".join(f"song {song}" for song in generator.permutation(30)[:6]) for _ in range(40)]
    (importable / "lists.txt").write_text("\n".join(lists), encoding="utf-8")
    words = shlex.split(ALL_PARTS)
    assert words[:3] == ["python", "-m", "mllmrec.train"]
    done = command("train", *words[3:], *TINY, "hydra.run.dir=run", cwd=importable)
    assert done.returncode == 0, done.stdout + done.stderr
    metrics = json.loads((importable / "run" / "metrics.json").read_text(encoding="utf-8"))
    assert list(metrics["stages"]) == ["zero_shot", "warmup", "margin", "grpo"]
    data = json.loads((importable / "run" / "data.json").read_text(encoding="utf-8"))
    assert data["samples"]["test"]["samples"] == 40


@pytest.mark.benchmark
def test_wheels_of_both_packages_in_an_environment_of_their_own(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pip")
    pytest.importorskip("hatchling")
    monkeypatch.delenv("PYTHONPATH", raising=False)
    built = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--no-build-isolation",
    ]
    run(tmp_path, *built, "--wheel-dir", "wheels", str(PROJECT), str(package))
    environment = tmp_path / "environment"
    venv.create(environment, with_pip=False, symlinks=os.name != "nt")
    paths = sysconfig.get_paths(vars={"base": str(environment), "platbase": str(environment)})
    scripts = Path(paths["scripts"])
    into = [sys.executable, "-m", "pip", "--python", str(scripts / "python"), "install", "--quiet"]
    run(tmp_path, *into, "--no-deps", "--no-index", *map(str, (tmp_path / "wheels").glob("*.whl")))
    # The packages that both need are found where they are, so that nothing is downloaded.
    theirs = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    (Path(paths["purelib"]) / "dependencies.pth").write_text("\n".join(theirs) + "\n", encoding="utf-8")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    found = run(elsewhere, str(scripts / "python"), "-c", "import mllmrec, ourlab; print(mllmrec, ourlab)")
    assert found.count(str(Path(paths["purelib"]))) == 2

    command, *words = shlex.split(SWEEP)
    small = [*TINY, "method=grpo_only", "dataset.num_users=60", "dataset.num_items=40"]
    run(elsewhere, str(scripts / command), *words, *small)
    command, *words = shlex.split(REPORT)
    page = run(elsewhere, str(scripts / command), *words, "resamples=20", "hydra.run.dir=REPORT")
    assert "second_try" in page
    assert (elsewhere / "REPORT" / "report.html").stat().st_size > 0
    metrics = [json.loads(path.read_text()) for path in (elsewhere / "runs").glob("*/metrics.json")]
    assert len(metrics) == 4
