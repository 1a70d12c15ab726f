"""The report command, as users type it, on runs of the real mllmrec.train."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from mllmrec.config.listed import listed
from mllmrec.errors import UserError
from mllmrec.run.folder import RunFolder

SMALL = [
    "debug=fast",
    "dataset.num_users=60",
    "dataset.num_items=40",
    "backbone.hidden_size=32",
    "backbone.num_layers=2",
    "backbone.vocabulary=400",
    "logger=none",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("study")


@pytest.fixture
def run(command, monkeypatch):
    """A command on a wide screen, with no account of W&B."""
    for key in [key for key in os.environ if key.startswith("WANDB")]:
        monkeypatch.delenv(key)
    monkeypatch.setenv("COLUMNS", "160")
    return command


@pytest.fixture
def study(folder: Path, run) -> Path:
    """A folder with the runs ``runs/0`` (SFT) and ``runs/1`` (GRPO after SFT), and a job that failed."""
    if not (folder / "runs").exists():
        sweep = ["method=sft,mllmrec_r1", "hydra.sweep.dir=runs", "cache_dir=cache"]
        assert run("train", "--multirun", *SMALL, *sweep, cwd=folder).returncode == 0
        shutil.copytree(folder / "runs" / "0" / ".hydra", folder / "runs" / "2" / ".hydra")
        RunFolder(folder / "runs" / "2").fail(UserError("no data\nfor you"))
    return folder


@pytest.mark.slow
def test_the_report_of_real_runs(run, study):
    settings = ["name=Both", "metric=HR@5", "wandb=true", "resamples=100", "hydra.run.dir=out"]
    done = run("report", "runs=runs,runs/1", *settings, cwd=study)
    assert done.returncode == 0, done.stderr
    content = json.loads((study / "out" / "report.json").read_text(encoding="utf-8"))
    assert content["title"] == "Both"
    whole, others, alone, _ = content["experiments"]
    assert [part["name"] for part in content["experiments"]] == [
        "runs",
        "runs, popularity negatives",
        "1",
        "1, popularity negatives",
    ]
    assert [part["protocol"]["negatives"] for part in (whole, others)] == ["uniform", "popularity"]
    assert [(row["label"], row["stage"], row["seeds"]) for row in whole["rows"]] == [
        ("sft", "sft", [0]),
        ("mllmrec_r1", "grpo", [0]),
    ]
    assert list(whole["baselines"]) == ["popularity", "item_knn"]
    # An independent reading of the ranks on disk.
    rows = pq.read_table(study / "runs" / "1" / "per_user.parquet").to_pylist()
    ranks = [row["rank"] for row in rows if row["stage"] == "grpo"]
    within = sum(rank <= 5 for rank in ranks) / len(ranks)
    for row in (whole["rows"][1], alone["rows"][0]):
        assert row["metrics"]["HR@5"]["mean"] == pytest.approx(within)
    assert whole["protocol"]["users"] == len(ranks)
    assert whole["unfinished"] == [{"path": "runs/2", "error": "UserError: no data"}]
    screen = " ".join(done.stdout.split())
    for words in (
        "method",
        "sft",
        "1 job failed: runs/2 (UserError: no data)",
        "not sent",
        "out/report.html",
    ):
        assert words in screen
    drawn = {path.relative_to(study / "out").as_posix() for path in (study / "out").rglob("*.png")}
    sections = ["1-runs", "2-runs-popularity-negatives", "3-1", "4-1-popularity-negatives"]
    expected = ["1-runs/learning", "1-runs/inflation", "1-runs/cost", "3-1/learning", "3-1/inflation"]
    expected += [f"{section}/slices" for section in sections]
    assert drawn == {f"{name}.png" for name in expected}
    assert "(3-1/inflation.png)" in (study / "out" / "report.md").read_text(encoding="utf-8")
    page = (study / "out" / "report.html").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == len(drawn)


@pytest.mark.slow
def test_runs_with_other_candidates_are_refused_with_status_2(run, study):
    for number in "01":
        shutil.copytree(study / "runs" / number, study / "mixed" / number)
    path = study / "mixed" / "1" / "metrics.json"
    metrics = json.loads(path.read_text())
    metrics["protocol"]["candidates_hash"] = "0" * 32
    path.write_text(json.dumps(metrics))
    done = run("report", "runs=mixed", "hydra.run.dir=refused", cwd=study)
    assert done.returncode == 2
    assert done.stderr.startswith(
        "mllmrec.report: error: mixed/0 and mixed/1 cannot be compared: candidates_hash"
    )
    assert done.stderr.count("\n") == 1
    assert not (study / "refused" / "report.html").exists()


def test_a_comma_list_of_folders_is_one_value_for_hydra(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert listed(["runs=a,b/c", "seed=1,2"], "runs") == ["runs=['a','b/c']", "seed=1,2"]
    assert listed(["runs=[a,b]", "runs='x,y'"], "runs") == ["runs=[a,b]", "runs='x,y'"]
    assert listed(["runs="], "runs") == ["runs="]
    # Multirun names folders after overrides in this way.
    (tmp_path / "method=sft,seed=0").mkdir()
    assert listed(["runs=method=sft,seed=0"], "runs") == ["runs=['method=sft,seed=0']"]
