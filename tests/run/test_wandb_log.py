from __future__ import annotations

import json
from pathlib import Path

import pytest
from offline_wandb import read_run

from mllmrec.run.csv_log import CsvLog
from mllmrec.run.curves import draw_curves
from mllmrec.run.folder import RunFolder
from mllmrec.run.loggers import Labels, WandbLoggers
from mllmrec.run.rollouts import Rollout, RolloutWriter

LABELS = Labels("sizes", "G=8", ["method=sft"])
SETTINGS = {
    "seed": 3,
    "sft": {"learning_rate": 1e-3, "max_new_tokens": 8},
    "draft": {"api_key": "kept-out-of-it"},
}
PROTOCOL = {"split": "test", "users": 4, "negatives": "uniform", "num_candidates": 10}


@pytest.fixture(autouse=True)
def no_account(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)


@pytest.fixture
def run(tmp_path: Path):
    """A run of two phases with numbers, curves and rollouts, as wandb recorded it."""
    folder, loggers = RunFolder(tmp_path), WandbLoggers(offline=True)
    loggers.start(folder, LABELS, SETTINGS)
    folder.record_protocol(PROTOCOL, {"HR@1": 0.1})
    loggers.log_protocol(PROTOCOL)
    for stage in ("sft", "grpo"):
        for logger in loggers.for_stage(folder, stage):
            for step in range(3):
                logger.log_metrics({"loss": 3.0 - step, "val/NDCG@3": 0.25 * step}, step)
            logger.finalize("success")
    folder.record_stage("grpo", {"HR@1": 0.5}, {"HR@1": [0.25, 0.75]}, {"invalid": 0.0})
    folder.record_cost("grpo", {"seconds": 2.5})
    with RolloutWriter(folder.rollouts_path) as writer:
        writer.append([Rollout(1, "u7", "[ITEM_2] Red Lamp", 1.0, {"hit": 1.0}, 0.5)])
    draw_curves(folder.log_path, folder.curves_path)
    loggers.log_results(folder)
    loggers.close()
    return read_run(tmp_path)


def test_the_run_can_be_found_by_its_settings_and_its_protocol(run) -> None:
    assert run.config["seed"] == 3
    assert run.config["sft"] == {"learning_rate": 1e-3, "max_new_tokens": 8}
    assert run.config["protocol"] == PROTOCOL
    assert (run.group, run.tags) == ("sizes", ["method=sft"])


def test_no_secret_is_in_any_file_of_the_run(run) -> None:
    assert run.config["draft"] == {"api_key": "<redacted>"}
    for path in run.files.parent.rglob("*"):
        assert path.is_dir() or b"kept-out-of-it" not in path.read_bytes(), path


def test_final_numbers_are_the_summary(run) -> None:
    found = {
        name: run.summary[name] for name in run.summary if name.split("/")[0] in ("test", "chance", "cost")
    }
    assert found == {"chance/HR@1": 0.1, "test/grpo/HR@1": 0.5, "cost/grpo/seconds": 2.5}
    assert (run.summary["intervals/grpo/HR@1/low"], run.summary["intervals/grpo/HR@1/high"]) == (0.25, 0.75)


def test_the_steps_of_a_stage_count_on_from_the_stage_before(run) -> None:
    curve = [
        (row["trainer/global_step"], row[f"{stage}/val/NDCG@3"])
        for stage in ("sft", "grpo")
        for row in run.history
        if f"{stage}/val/NDCG@3" in row
    ]
    assert curve == [(0, 0.0), (1, 0.25), (2, 0.5), (2, 0.0), (3, 0.25), (4, 0.5)]
    assert [row["trainer/global_step"] for row in run.history if "sft/loss" in row] == [0, 1, 2]


def test_curves_and_rollouts_are_shown_in_wandb(run) -> None:
    (shown,) = (row for row in run.history if "rollouts/path" in row)
    assert (run.files / shown["curves/path"]).read_bytes().startswith(b"\x89PNG")
    table = json.loads((run.files / shown["rollouts/path"]).read_text(encoding="utf-8"))
    assert table["columns"] == ["step", "prompt_id", "completion", "reward", "hit", "advantage"]
    assert table["data"] == [[1, "u7", "[ITEM_2] Red Lamp", 1.0, 1.0, 0.5]]


def test_stages_that_an_earlier_job_trained_are_logged_too(tmp_path) -> None:
    folder, loggers = RunFolder(tmp_path), WandbLoggers(offline=True)
    loggers.start(folder, LABELS, {})
    for stage in ("warmup", "sft"):
        log = CsvLog(folder.log_path, stage, lambda: 0.0)
        log.log_metrics({"loss": 2.0}, 5)
        log.finalize("success")
    _, grpo = loggers.for_stage(folder, "grpo")
    grpo.log_metrics({"loss": 1.0}, 4)
    loggers.log_results(folder)
    loggers.close()
    rows = [row for row in read_run(tmp_path).history if "trainer/global_step" in row]
    assert [(row["trainer/global_step"], *(name for name in row if "loss" in name)) for row in rows] == [
        (5, "warmup/loss"),
        (10, "sft/loss"),
        (14, "grpo/loss"),
    ]
