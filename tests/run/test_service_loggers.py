"""MLflow and Trackio, where they are installed: their own stores read back what a job logged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mllmrec.config import CONFIG_DIR
from mllmrec.config.compose import compose_checked
from mllmrec.run.csv_log import CsvLog
from mllmrec.run.folder import RunFolder
from mllmrec.run.loggers import Labels, RunLoggers
from mllmrec.run.rollouts import Rollout, RolloutWriter
from mllmrec.run.service_log import ServiceLog, ServiceStages

LABELS = Labels("sizes", "G=8", ["method=sft"])
SETTINGS = {"seed": 3, "sft": {"learning_rate": 1e-3}, "draft": {"api_key": "kept-out-of-it"}}


def logs(folder: RunFolder, loggers: RunLoggers, labels: Labels = LABELS, failed: bool = False) -> str | None:
    """A job of two phases; what the service calls its run."""
    loggers.start(folder, labels, SETTINGS)
    known = loggers.known
    folder.record_protocol({"users": 4}, {"HR@1": 0.1})
    loggers.log_protocol({"users": 4})
    for stage in ("sft", "grpo"):
        for logger in loggers.for_stage(folder, stage):
            for step in range(3):
                logger.log_metrics({"loss": 3.0 - step, "val/NDCG@3": 0.25 * step}, step)
            logger.finalize("success")
    folder.record_stage("grpo", {"HR@1": 0.5}, {}, {})
    with RolloutWriter(folder.rollouts_path) as writer:
        writer.append([Rollout(1, "u7", "Red | Lamp", 1.0, {"hit": 1.0}, 0.5)])
    if not failed:
        loggers.log_results(folder)
    loggers.close(failed)
    return known


def test_phases_count_on_and_those_without_a_logger_come_from_the_log(tmp_path: Path) -> None:
    for stage in ("warmup", "sft"):
        log = CsvLog(tmp_path / "log.csv", stage, lambda: 0.0)
        log.log_metrics({"loss": 2.0}, 5)
        log.finalize("success")
    written: list[tuple[dict[str, float], int, int]] = []
    stages = ServiceStages(
        lambda job, stage: ServiceLog(job, stage, lambda *values: written.append(values)),
        tmp_path / "log.csv",
    )
    stages.begin("grpo").log_metrics({"reward": 1.0}, 4)
    assert written == [
        ({"warmup/loss": 2.0}, 5, 5),
        ({"sft/loss": 2.0}, 5, 10),
        ({"grpo/reward": 1.0}, 4, 14),
    ]


@pytest.mark.parametrize(
    "typed",
    [["logger=mlflow", "logger.uri=sqlite:///runs.db"], ["logger=trackio", "logger.server=http://x:1"]],
)
def test_the_choices_compose_whether_or_not_their_packages_are_there(typed: list[str]) -> None:
    assert compose_checked("train", [*typed, "logger.artifacts=true"], CONFIG_DIR).faults == []


def test_mlflow_keeps_what_a_job_logged_and_how_it_ended(tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow", reason="needs pip install 'mllmrec[mlflow]'")
    from mllmrec.run.mlflow_log import MlflowLoggers

    uri = f"sqlite:///{tmp_path / 'runs.db'}"
    client = mlflow.MlflowClient(uri)
    client.create_experiment("toy", artifact_location=(tmp_path / "kept").as_uri())
    known = logs(RunFolder(tmp_path / "run"), MlflowLoggers("toy", uri, tags=["small"], artifacts=True))
    run = client.get_run(known)
    assert (run.info.run_name, run.info.status) == ("G=8", "FINISHED")
    assert {key: run.data.tags[key] for key in ("group", "method", "small")} == {
        "group": "sizes",
        "method": "sft",
        "small": "true",
    }
    assert run.data.params == {"seed": "3", "sft.learning_rate": "0.001", "draft.api_key": "<redacted>"}
    curve = client.get_metric_history(known, "grpo/val/NDCG_at_3")
    assert [(point.step, point.value) for point in curve] == [(0, 0.0), (1, 0.25), (2, 0.5)]
    assert run.data.metrics["test/grpo/HR_at_1"] == 0.5
    (table,) = (tmp_path / "kept").rglob("rollouts.json")
    assert json.loads(table.read_text())["data"] == [[1, "u7", "Red | Lamp", 1.0, 1.0, 0.5]]
    again = Labels("sizes", "G=8", [], known=known)
    assert logs(RunFolder(tmp_path / "again"), MlflowLoggers("toy", uri), again, failed=True) == known
    assert client.get_run(known).info.status == "FAILED"


def test_trackio_keeps_what_a_job_logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "store"))
    pytest.importorskip("trackio", reason="needs pip install 'mllmrec[trackio]'")
    from trackio.sqlite_storage import SQLiteStorage

    from mllmrec.run.trackio_log import TrackioLoggers

    name = logs(RunFolder(tmp_path / "run"), TrackioLoggers("toy", tags=["small"]))
    assert name.startswith("G=8-")
    config = SQLiteStorage.get_run_config("toy", name)
    assert (config["seed"], config["tags"], config["_Group"]) == (3, ["small", "method=sft"], "sizes")
    assert config["draft"] == {"api_key": "<redacted>"}
    rows = SQLiteStorage.get_logs("toy", name)
    assert [(row["step"], row["grpo/loss"]) for row in rows if "grpo/loss" in row] == [
        (2, 3.0),
        (3, 2.0),
        (4, 1.0),
    ]
    (last,) = (row for row in rows if "test/grpo/HR@1" in row)
    assert (last["step"], last["test/grpo/HR@1"]) == (4, 0.5)
    assert last["rollouts"]["_value"][0]["completion"] == "Red | Lamp"
    # Another job of the same name, as of another sweep, is another run, also for a job that goes on.
    other = logs(RunFolder(tmp_path / "other"), TrackioLoggers("toy"))
    before = SQLiteStorage.get_logs("toy", other)
    again = Labels("sizes", "G=8", [], known=name)
    assert logs(RunFolder(tmp_path / "again"), TrackioLoggers("toy"), again, failed=True) == name
    assert (len(SQLiteStorage.get_runs("toy")), SQLiteStorage.get_logs("toy", other)) == (2, before)
    assert [alert["run"] for alert in SQLiteStorage.get_alerts("toy")] == [name]
