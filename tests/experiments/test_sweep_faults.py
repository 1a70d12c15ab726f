from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "experiments"))
import sweep_faults

from mllmrec.config import CONFIG_DIR
from mllmrec.config.compose import compose_checked


@pytest.mark.parametrize("engine", [engine for engine in sweep_faults.ENGINES if engine != "optuna"])
def test_every_engine_has_the_settings_that_are_typed(tmp_path, engine: str) -> None:
    folder = sweep_faults.prepared(tmp_path / engine)
    name, experiment, _report, *typed = sweep_faults.command(engine, folder)
    place = typed.index("--config-dir")
    given = [text for text in typed[:place] if not text.startswith("jobs=")]
    found = compose_checked(
        "train",
        [f"experiment={experiment}", *given, *sweep_faults.SMALL[1:]],
        CONFIG_DIR,
        typed[place + 1],
    )
    assert (name, found.faults) == ("mllmrec.sweep", [])
    assert found.config.hydra.sweeper.params == {sweep_faults.AXIS: "0.001,0.002"}


def test_a_wrong_engine_is_named(monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["sweep_faults.py", "engines=celery"])
    assert sweep_faults.main() == 2
    assert "engines=celery: there are joblib, submitit_local" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["sweep_faults.py", "faults=driver,node"])
    assert sweep_faults.main() == 2
    assert "faults=limit,requeued,node need engines=slurm" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["sweep_faults.py", "engines=joblib", "faults=full"])
    assert sweep_faults.main() == 2
    assert "must be a file system of at most a gigabyte" in capsys.readouterr().err
