from __future__ import annotations

import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from mllmrec.__main__ import COMMANDS, main, script

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """``mllmrec-train`` as pip would install it."""
    path = tmp_path / "bin" / "mllmrec-train"
    path.parent.mkdir()
    path.write_text(
        f"#!{sys.executable}\nimport sys\nfrom mllmrec.train import main\n"
        "if __name__ == '__main__':\n    sys.exit(main())\n"
    )
    path.chmod(0o755)
    return path


def run(command: list[str], folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_every_command_is_installed_under_its_name_and_has_its_entry_point() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
    assert scripts.pop("mllmrec") == "mllmrec.__main__:main"
    assert scripts == {script(name): f"mllmrec.{name}:main" for name in COMMANDS}
    for name in COMMANDS:
        assert callable(import_module(f"mllmrec.{name}").main)
    # Every module that can be run is listed.
    modules = {
        path.stem
        for path in (ROOT / "mllmrec").glob("*.py")
        if "def main(" in path.read_text(encoding="utf-8")
    }
    assert modules - {"__main__"} == set(COMMANDS)


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_the_package_says_what_commands_there_are(arguments: list[str], tmp_path: Path) -> None:
    done = run([sys.executable, "-m", "mllmrec", *arguments], tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    for name, does in COMMANDS.items():
        assert any(
            line.split() == [name.replace("_", "-"), *does.split()] for line in done.stdout.splitlines()
        )


def test_a_command_is_run_by_its_name(tmp_path: Path) -> None:
    done = run([sys.executable, "-m", "mllmrec", "build-cot", "seed=7", "--cfg", "job"], tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "seed: 7" in done.stdout
    assert "samples_shown:" in done.stdout


def test_an_unknown_command_ends_with_status_2_and_names_the_others(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["trian"]) == 2
    error = capsys.readouterr().err
    assert "trian: no such command; there are train, build-cot," in error


def test_tab_completes_settings_and_choices_of_an_installed_command(installed: Path, tmp_path: Path) -> None:
    set_up = run([str(installed), "-sc", "install=bash"], tmp_path)
    assert (set_up.returncode, set_up.stderr) == (0, "")
    assert set_up.stdout.rstrip().endswith("-F hydra_bash_completion mllmrec-train")
    # Bash itself, as after eval "$(mllmrec-train -sc install=bash)" and a Tab.
    ask = (
        'eval "$(mllmrec-train -sc install=bash)"; '
        "COMP_LINE='mllmrec-train dataset=am'; COMP_POINT=${#COMP_LINE}; COMP_CWORD=1; "
        "hydra_bash_completion; echo ${COMPREPLY[@]}"
    )
    done = run(["bash", "-c", ask], tmp_path, PATH=f"{installed.parent}{os.pathsep}{os.environ['PATH']}")
    assert done.stdout.split() == ["dataset=amazon_2023", "dataset=amazon_beauty"]
    done = run([str(installed), "-sc", "query=bash"], tmp_path, COMP_LINE="mllmrec-train grpo.group_s")
    assert done.stdout.split() == ["grpo.group_size="]


def test_an_installed_command_runs_jobs_side_by_side(installed: Path, tmp_path: Path) -> None:
    settings = [
        "dataset.num_users=40",
        "dataset.num_items=30",
        "caption=none",
        "cot_policy=none",
        "logger=none",
    ]
    command = [str(installed), "--multirun", "method=random", "seed=0,1", "hydra/launcher=joblib", *settings]
    done = run([*command, "hydra.launcher.n_jobs=2", "hydra.sweep.dir=sweep", "trainer=cpu"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("sweep/*/metrics.json"))) == 2
