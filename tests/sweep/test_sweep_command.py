from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from mllmrec.errors import UserError
from mllmrec.sweep import main
from mllmrec.sweeping.jobs import plan
from mllmrec.tune import main as tune

ROOT = Path(__file__).resolve().parents[2]


def test_wrong_use_ends_with_status_2_and_runs_nothing(
    tmp_path, write_experiment, monkeypatch, capsys
) -> None:
    write_experiment("light", {"method": "popularity,random", "seed": "0"})
    monkeypatch.chdir(tmp_path)
    for arguments, expected in {
        ("lihgt",): "lihgt: no such experiment (did you mean light?); choose ablation_components",
        (): "no experiment is named",
        ("jobs=2",): "no experiment is named",
        ("light", "jobs=none"): "jobs=none: must be a whole number",
        ("light", "report=perhaps"): "report=perhaps: must be true or false",
        ("light", "method=popularty"): "did you mean popularity?",
        # Only the second job is wrong.
        ("light", "eval.ks=[1,3],[1,30]"): "30 exceeds the 10 candidates",
    }.items():
        assert main([*arguments, "--config-dir", "extra"]) == 2, arguments
        said = capsys.readouterr()
        assert said.out == ""
        assert expected in said.err
    assert not (tmp_path / "sweeps").exists()


@pytest.mark.parametrize("command", [main, tune])
def test_a_traceback_is_shown_when_asked_for_and_a_defect_keeps_its_own(command, monkeypatch, capsys) -> None:
    assert command(["jobs=2"]) == 2
    assert "error: " in capsys.readouterr().err
    monkeypatch.setenv("MLLMREC_TRACEBACK", "1")
    with pytest.raises(UserError):
        command(["jobs=2"])
    monkeypatch.delenv("MLLMREC_TRACEBACK")
    for package in ("tuning", "sweeping"):  # the first import of one of them takes the name from the other
        monkeypatch.setattr(f"mllmrec.{package}.command.flag", lambda given, name: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        command(["main_table"])


def test_a_file_where_the_folder_of_a_sweep_should_be_is_2(
    tmp_path, write_experiment, monkeypatch, capsys
) -> None:
    write_experiment("light", {"seed": "0"})
    (tmp_path / "notes").write_text("mine")
    monkeypatch.chdir(tmp_path)
    assert main(["light", "--config-dir", "extra", "hydra.sweep.dir=notes/light"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("mllmrec.sweep: error: notes is a file, and a folder is needed there")
    assert error.count("\n") == 1


def test_the_script_runs_the_command_from_anywhere(tmp_path) -> None:
    script = [str(ROOT / "sweep.sh"), "--help"]
    done = subprocess.run(script, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    for name in ("main_table", "ablation_components", "reward_inflation"):
        assert f"\n  {name}\n" in done.stdout
    wrong = subprocess.run([*script[:1], "jobs=2"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert wrong.returncode == 2


@pytest.mark.parametrize("flags", [["hydra.searchpath=[extra]"], ["--config-dir", "extra"]])
def test_experiments_of_ones_own_are_listed_and_planned(
    tmp_path, write_experiment, monkeypatch, capsys, flags
) -> None:
    write_experiment("light", {"method": "popularity,random", "seed": "0"})
    monkeypatch.chdir(tmp_path)
    assert main(["--help", *flags]) == 0
    assert "\n  light\n" in capsys.readouterr().out
    # Every job gets Hydra's own settings along with the others.
    sweep = plan("light", flags[:1], None) if len(flags) == 1 else plan("light", [], flags[1])
    assert [job.config.method.name for job in sweep.jobs.values()] == ["popularity", "random"]
    assert main(["light", "hydra.searchpath=[extr]"]) == 2
    assert "hydra.searchpath=[extr]: extr does not exist" in capsys.readouterr().err
