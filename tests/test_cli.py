from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

JOB = """
import atexit, os, sys
from mllmrec.cli import run_app
from mllmrec.errors import UserError

def fail(cfg):
    kind = cfg.get("kind")
    if kind == "user":
        raise UserError(f"data.csv line {cfg.seed}: no item id; add one")
    if kind == "wrapped":
        from hydra.utils import instantiate
        instantiate({"_target_": "mllmrec.cot.PrecomputedCot", "path": "absent.json"})
    if kind == "defect":
        return {}["key"]
    if kind == "interrupt":
        raise KeyboardInterrupt
    print("seed", cfg.seed)
    return float(cfg.seed)

if __name__ == "__main__":
    atexit.register(lambda: print("torch", "torch" in sys.modules))
    run_app(fail, "train")
"""
ROOT = """
seed: 0
kind: null
hydra:
  run:
    dir: out
  sweep:
    dir: sweep
    subdir: ${hydra.job.num}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "job.py").write_text(JOB)
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "small.yaml").write_text(ROOT)
    return tmp_path


def run(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "job.py", *arguments],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def small(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The job on a configuration of two values, which spares the imports of the real one's components."""
    flags = ["--config-path", str(folder / "conf"), "--config-name", "small"]
    return run(folder, *flags, *arguments, **environment)


def test_a_finished_job_ends_with_status_0_and_a_run_folder(folder: Path) -> None:
    done = small(folder, "seed=3")
    assert (done.returncode, done.stderr) == (0, "")
    assert "seed 3" in done.stdout
    assert (folder / "out" / ".hydra" / "config.yaml").is_file()


def test_wrong_input_ends_with_status_2_and_one_line(folder: Path) -> None:
    done = small(folder, "kind=user", "seed=3")
    assert done.returncode == 2
    assert done.stderr == "mllmrec.train: error: data.csv line 3: no item id; add one\n"


def test_wrong_input_found_by_a_constructor_ends_with_status_2(folder: Path) -> None:
    done = small(folder, "kind=wrapped")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "absent.json" in done.stderr


@pytest.mark.skipif(os.name != "posix", reason="elsewhere the folder of a process stays")
def test_a_working_folder_that_is_gone_is_reported(folder: Path) -> None:
    gone = folder / "gone"
    gone.mkdir()
    flags = ["--config-path", str(folder / "conf"), "--config-name", "small"]
    command = ["sh", "-c", 'rmdir "$PWD" && exec "$@"', "sh", sys.executable, str(folder / "job.py"), *flags]
    done = subprocess.run(command, cwd=gone, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("mllmrec.train: error: the current folder no longer exists")


@pytest.mark.parametrize(
    "override",
    ["grpo.beta=-1", "+advantage.foo=1", "advantage.scale=7", "rollout.temperature=hot", "mix_ratio=2"],
)
def test_a_wrong_setting_is_refused_without_importing_torch(folder: Path, override: str) -> None:
    done = run(folder, override)
    assert done.returncode == 2
    assert override.lstrip("+").split("=")[0] in done.stderr
    assert done.stdout == "torch False\n"


def test_a_traceback_is_shown_when_asked_for(folder: Path) -> None:
    done = small(folder, "kind=user", MLLMREC_TRACEBACK="1")
    assert done.returncode != 0
    assert "Traceback" in done.stderr
    assert "raise UserError" in done.stderr


def test_a_defect_ends_with_status_1_and_its_traceback(folder: Path) -> None:
    done = small(folder, "kind=defect")
    assert done.returncode == 1
    assert 'return {}["key"]' in done.stderr
    assert done.stderr.rstrip().endswith("KeyError: 'key'")


def test_an_interruption_ends_with_status_130_without_traceback(folder: Path) -> None:
    done = small(folder, "kind=interrupt")
    assert done.returncode == 130
    assert "Traceback" not in done.stderr
    assert "interrupted" in done.stderr


def test_a_multirun_runs_all_jobs_and_reports_wrong_input(folder: Path) -> None:
    good = small(folder, "--multirun", "seed=1,2")
    assert good.returncode == 0
    assert [line for line in good.stdout.splitlines() if line.startswith("seed")] == ["seed 1", "seed 2"]
    # The second job is wrong, the third runs all the same.
    bad = small(folder, "--multirun", "kind=null,user,null", "seed=7")
    assert bad.returncode == 2
    assert bad.stdout.count("seed 7") == 2
    assert "Traceback" not in bad.stderr
    assert "data.csv line 7" in bad.stderr


def test_the_value_of_a_job_reaches_hydra(folder: Path) -> None:
    (folder / "callback.py").write_text(
        "from hydra.experimental.callback import Callback\n"
        "class Tell(Callback):\n"
        "    def on_job_end(self, config, job_return, **kwargs):\n"
        "        print('objective', job_return.return_value)\n"
    )
    done = small(folder, "seed=4", "+hydra.callbacks.tell._target_=callback.Tell", PYTHONPATH=str(folder))
    assert done.returncode == 0
    assert "objective 4.0" in done.stdout


def test_all_wrong_overrides_come_together_before_anything_is_imported_or_written(folder: Path) -> None:
    done = run(folder, "dataset=amzon_beauty", "grpo.grup_size=4", "mix_ratio=1.5", "grpo.group_size=1")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    for part in (
        "4 faults",
        "did you mean amazon_beauty?",
        "did you mean grpo.group_size?",
        "mix_ratio=1.5",
        "--help",
    ):
        assert part in done.stderr
    assert done.stdout == "torch False\n"
    assert sorted(path.name for path in folder.iterdir()) == ["conf", "job.py"]


def test_a_refused_value_leaves_no_run_folder(folder: Path) -> None:
    done = run(folder, "mix_ratio=1.5", "loss.level=letter")
    assert done.returncode == 2
    assert "2 faults" in done.stderr
    assert sorted(path.name for path in folder.iterdir()) == ["conf", "job.py"]


def test_each_job_of_a_multirun_is_checked(folder: Path) -> None:
    done = run(folder, "--multirun", "mix_ratio=0.1,1.5", "hydra.sweep.dir=sweep")
    assert done.returncode == 2
    assert "seed 0" in done.stdout
    assert "INFO: Launching 2 jobs" in done.stdout
    assert "mix_ratio=1.5: must be less than or equal to 1" in done.stderr


def test_an_unknown_flag_ends_with_status_2(folder: Path) -> None:
    assert run(folder, "--nothing").returncode == 2


def test_a_sweep_without_multirun_ends_with_status_2_and_a_message(folder: Path) -> None:
    done = small(folder, "seed=1,2")
    assert done.returncode == 2
    assert "--multirun" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_configuration_can_be_shown_before_it_is_complete(folder: Path) -> None:
    done = run(folder, "dataset=tabular", "backbone=hf", "--cfg", "job")
    assert done.returncode == 0
    assert "path: ???" in done.stdout
    assert "interactions: null" in done.stdout


@pytest.mark.parametrize(
    "command",
    [
        "train",
        "build_cot",
        "evaluate",
        "recommend",
        "explore",
        "export",
        "datasets",
        "serve",
        "reproduce",
        "report",
    ],
)
def test_help_is_a_manual_page_and_imports_nothing_heavy(folder: Path, command: str) -> None:
    done = run(folder, f"hydra/help={command}", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    headings = [line for line in done.stdout.splitlines() if line.isupper()]
    assert headings[:3] == ["NAME", "SYNOPSIS", "DESCRIPTION"]
    assert headings[-2:] == ["EXIT STATUS", "SEE ALSO"]
    assert "EXAMPLES" in headings
    assert f"mllmrec.{command} - " in done.stdout
    assert done.stdout.endswith("torch False\n")


def test_help_lists_every_choice(folder: Path) -> None:
    from mllmrec.config import CONFIG_DIR

    page = run(folder, "--help").stdout
    for path in CONFIG_DIR.glob("*/*.yaml"):
        if path.parent.name not in ("recipe", "hydra"):
            assert (path.stem in page.split()) == (not path.stem.startswith("_")), path
    # No group is left out of the page: each begins a line of its own.
    groups = {path.name for path in CONFIG_DIR.iterdir() if path.is_dir()} - {"recipe", "hydra"}
    assert groups <= {line.split()[0] for line in page.splitlines() if line.strip()}


@pytest.mark.parametrize("flags", [["--config-dir", "extra"], ["hydra.searchpath=[extra]"]])
def test_help_lists_the_choices_of_a_folder_of_ones_own(folder: Path, flags: list[str]) -> None:
    (folder / "extra" / "reward").mkdir(parents=True)
    (folder / "extra" / "reward" / "mine.yaml").write_text("_target_: mllmrec.rewards.hit_format.HitFormat\n")
    done = run(folder, *flags, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    _, _, rest = done.stdout.partition("\n  reward ")
    choices = rest.partition("\n  rollout ")[0].split()
    assert {"hit_format", "mine", "release"} <= set(choices)
    assert choices == sorted(choices)
    shown = run(folder, *flags, "reward=mine", "--cfg", "job", "--package", "reward")
    assert "HitFormat" in shown.stdout
