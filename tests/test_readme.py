from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from mllmrec.config import CONFIG_DIR, check_config
from mllmrec.config.compose import compose_checked
from mllmrec.config.options import page as options_page

PROJECT = Path(__file__).resolve().parents[1]
README = (PROJECT / "README.md").read_text(encoding="utf-8")
SHARED = PROJECT.parent / "shared" / "data"
COMMANDS = [
    line for block in re.findall(r"```bash\n(.*?)```", README, flags=re.DOTALL) for line in block.splitlines()
]
TRAIN = [line for line in COMMANDS if line.startswith("python -m mllmrec.train")]


def overrides_of(command: str) -> list[str]:
    return shlex.split(command)[3:]


def test_the_test_command_is_the_one_that_ci_looks_for() -> None:
    assert [line for line in README.splitlines() if line.endswith("&& pytest")] == [COMMANDS[1]]
    assert "grep -m1 '&& pytest$' README.md" in (PROJECT / ".ci" / "run").read_text(encoding="utf-8")


def test_both_commands_begin_with_the_same_environment_and_torch() -> None:
    main, tests = (command.split(" && ") for command in COMMANDS[:2])
    assert main[:3] == tests[:3]
    assert main[-1] == "python -m mllmrec.train"


@pytest.mark.parametrize("command", TRAIN)
def test_train_commands_pass_the_checks(command: str) -> None:
    # A machine without a GPU checks everything else of a command that asks for one.
    overrides = [text.replace("trainer=gpu", "trainer=auto") for text in overrides_of(command)]
    result = compose_checked("train", overrides, CONFIG_DIR)
    assert result.faults == []
    check_config(result.config)


@pytest.mark.parametrize("page", ["mllmrec/cot/README.md", "conf/hydra/help/build_cot.yaml"])
def test_commands_of_the_cot_pages_pass_the_checks(page: str) -> None:
    text = (PROJECT / page).read_text(encoding="utf-8")
    commands = re.findall(r"^ *python -m mllmrec\.(train|build_cot) ([^\[\n]+)$", text, flags=re.MULTILINE)
    assert len(commands) >= 3
    for name, overrides in commands:
        result = compose_checked(name, shlex.split(overrides), CONFIG_DIR)
        assert result.faults == [], overrides
        check_config(result.config)


def test_the_page_of_options_is_that_of_the_files() -> None:
    written = (PROJECT / "docs" / "options.md").read_text(encoding="utf-8")
    assert written == options_page(), "python -m mllmrec.config.options > docs/options.md"


def test_every_option_says_what_it_is() -> None:
    assert "|  |" not in options_page()


def test_the_map_names_what_is_there() -> None:
    rows = re.findall(r"^\| (`[^|]*/[^|]*) \|", README.split("## Map")[1], flags=re.MULTILINE)
    named = [name for row in rows for name in re.findall(r"`([^`]+)`", row)]
    for name in named:
        assert (PROJECT / name).exists() or (PROJECT / "mllmrec" / name).exists(), name
    packages = {path.parent.name for path in (PROJECT / "mllmrec").glob("*/__init__.py")}
    assert packages <= {name.removeprefix("mllmrec/").rstrip("/") for name in named}


def run(command: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, *shlex.split(command)[1:]],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def here(command: Callable[..., SimpleNamespace], tmp_path: Path) -> Callable[[str], str]:
    """Run a line of the page in this process, in ``tmp_path``; return what it prints."""

    def run_here(line: str) -> str:
        python, option, module, *arguments = shlex.split(line)
        assert (python, option) == ("python", "-m")
        done = command(module.removeprefix("mllmrec."), *arguments, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run_here


@pytest.mark.slow
def test_the_sweep_and_its_report(tmp_path: Path, here: Callable[[str], str]) -> None:
    (sweep,) = [line for line in COMMANDS if line.startswith("./sweep.sh")]
    small = (
        "method=popularity,zero_shot seed=0 debug=fast hydra.sweep.dir=sweeps/main_table-small report=false"
    )
    done = subprocess.run(
        [str(PROJECT / "sweep.sh"), *shlex.split(sweep)[1:], *shlex.split(small)],
        cwd=tmp_path,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 of 2 jobs finished" in done.stdout
    page = here(command_with("mllmrec.report") + " hydra.run.dir=REPORT")
    assert "popularity" in page
    assert (tmp_path / "REPORT" / "report.html").stat().st_size > 0


def command_with(part: str) -> str:
    (command,) = [line for line in COMMANDS if part in line and "&&" not in line]
    return command


@pytest.mark.slow
def test_the_main_job_and_what_follows_it(tmp_path: Path) -> None:
    page = run(command_with("debug=fast") + " hydra.run.dir=DIR", tmp_path)
    assert "Where to look next" in page
    assert {path.name for path in (tmp_path / "DIR").iterdir()} >= {
        "metrics.json",
        "per_user.parquet",
        "log.csv",
        "prompts.md",
        "rollouts.parquet",
        "curves.png",
        "data.json",
        "run.log",
        ".hydra",
    }
    run(command_with("mllmrec.evaluate run=DIR eval."), tmp_path)
    (again,) = tmp_path.glob("DIR/evaluations/*/metrics.json")
    # 99 negatives and the target.
    assert json.loads(again.read_text())["protocol"]["num_candidates"] == 100
    assert "by Majority(n=8" in run(
        command_with("inference=") + " eval.max_users=9 hydra.run.dir=votes", tmp_path
    )
    run(command_with("mllmrec.export"), tmp_path)
    assert len(run(command_with("rank.py"), tmp_path).splitlines()) == 3
    assert "candidates/test-uniform.parquet" in run(command_with("mllmrec.datasets export"), tmp_path)
    (block,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    (tmp_path / "notebook.py").write_text(block)
    assert len(run("python notebook.py", tmp_path).splitlines()) > 3
    assert (tmp_path / "compared" / "report.html").stat().st_size > 0
    user = next(iter(re.findall(r"user=(\S+)", page)))
    assert "Recommended" in run(
        command_with("mllmrec.recommend").replace("user=ID", f"user={user}"), tmp_path
    )


@pytest.mark.slow
def test_reasoning_alone(tmp_path: Path, here: Callable[[str], str]) -> None:
    page = here(command_with("mllmrec.build_cot") + " dataset.num_users=200")
    (records,) = tmp_path.glob("cot/*/*/cot.jsonl")
    assert len(records.read_text().splitlines()) == 100
    assert "kept" in page


@pytest.mark.slow
def test_tables_of_ones_own(tmp_path: Path, here: Callable[[str], str]) -> None:
    # 40 users with 6 of 30 items each, in an order of their own.
    generator = np.random.default_rng(0)
    rows = [
        f"{user},{item},{time}"
        for user in range(40)
        for time, item in enumerate(generator.permutation(30)[:6])
    ]
    (tmp_path / "ratings.csv").write_text("\n".join(["user_id,item_id,timestamp", *rows]) + "\n")
    items = [f"{item},thing number {item}" for item in range(30)]
    (tmp_path / "items.csv").write_text("\n".join(["item_id,title", *items]) + "\n")
    (tmp_path / "images").mkdir()
    for item in range(30):
        Image.new("RGB", (16, 16), (8 * item, 100, 50)).save(tmp_path / "images" / f"{item}.jpg")
    assert "GRPO" in here(command_with("dataset=tabular") + " debug=fast")


@pytest.mark.slow
def test_amazon_beauty(here: Callable[[str], str]) -> None:
    root = SHARED / "amazon_beauty"
    if not root.is_dir():
        pytest.skip("Amazon Beauty lies in ../shared/data/amazon_beauty where it is at hand")
    page = here(command_with("dataset=amazon_beauty") + f" dataset.root={root} debug=fast")
    assert "22,363" in page
