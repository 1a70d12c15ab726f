"""An online run of wandb's own client, against a stand-in for the server on this machine."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import wandb
from loopback_wandb import Server, serving

from mllmrec.evaluation.records import StageRecords, write_stage
from mllmrec.run.folder import RunFolder
from mllmrec.run.loggers import Labels, WandbLoggers
from mllmrec.run.rollouts import Rollout, RolloutWriter

LABELS = Labels("sizes", "G=8", ["method=sft"])
HASH = "8520ff82e889d2e7428d39155e5fa2cf"
# What the client asks and can do without.
OPTIONAL = {"OrganizationCoreWeaveOrganizationID", "ServerFeaturesQuery"}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    wandb.teardown()  # its process keeps the address of the server it was started for
    with serving() as found:
        monkeypatch.setenv("WANDB_BASE_URL", found.url)
        monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
        monkeypatch.setenv("WANDB_SILENT", "true")
        monkeypatch.delenv("WANDB_MODE", raising=False)
        yield found
        wandb.teardown()


def finished(path: Path) -> RunFolder:
    """A folder with a protocol, two ranked users, a rollout and weights."""
    folder = RunFolder(path)
    folder.record_protocol({"users": 2, "candidates_hash": HASH}, {"HR@1": 0.1})
    folder.record_stage("sft", {"HR@1": 0.5}, {}, {})
    with write_stage(folder.per_user_path, "sft") as writer:
        ranked = [["9", "4", "7"], ["1", "3", "2"]]
        writer.append(StageRecords(["u1", "u2"], ["4", "1"], [2, 1], ranked, [3, 3]))
    with RolloutWriter(folder.rollouts_path) as writer:
        writer.append([Rollout(1, "u7", "</script> Red Lamp", 1.0, {"hit": 1.0}, 0.5)])
    folder.adapters_path.mkdir()
    (folder.adapters_path / "sft.bin").write_bytes(b"weights")
    return folder


def logs(folder: RunFolder, loggers: WandbLoggers, failed: bool = False) -> None:
    loggers.start(folder, LABELS, {"seed": 3, "draft": {"api_key": "kept-out-of-it"}})
    loggers.log_protocol({"users": 2})
    (_, steps) = loggers.for_stage(folder, "sft")
    for step in range(3):
        steps.log_metrics({"loss": 3.0 - step}, step)
    if not failed:
        loggers.log_results(folder)
    loggers.close(failed)


def test_an_online_run_arrives_whole_with_its_artefacts(server, tmp_path) -> None:
    logs(finished(tmp_path), WandbLoggers(tags=["toy"], artifacts=True))
    ((run_id, run),) = server.runs.items()
    assert (run.group, run.name, run.tags, run.exit_code) == ("sizes", "G=8", ["toy", "method=sft"], 0)
    assert run.config["seed"] == 3
    assert run.config["protocol"] == {"users": 2}
    assert run.config["draft"] == {"api_key": "<redacted>"}
    assert [row["sft/loss"] for row in run.history if "sft/loss" in row] == [3, 2, 1]
    assert run.summary["test/sft/HR@1"] == 0.5
    kinds = {one["artifactCollectionName"]: one["artifactTypeName"] for one in server.artifacts}
    assert kinds == {
        f"run-{run_id}-rollouts": "run_table",
        f"candidates-{HASH[:16]}": "candidates",
        f"rankings-{run_id}": "rankings",
        f"model-{run_id}": "model",
    }
    assert len(server.committed) == 4
    sent = {path.rpartition("/")[2]: content for path, content in server.files.items()}
    assert sent["sft.bin"] == b"weights"
    assert pq.read_table(io.BytesIO(sent["candidates.parquet"])).to_pylist() == [
        {"user_id": "u1", "target_id": "4", "candidates": ["4", "7", "9"]},
        {"user_id": "u2", "target_id": "1", "candidates": ["1", "2", "3"]},
    ]
    assert json.loads(sent["rollouts.table.json"])["data"] == [[1, "u7", "</script> Red Lamp", 1, 1, 0.5]]
    assert b"kept-out-of-it" not in b"".join(server.files.values())
    assert set(server.unknown) <= OPTIONAL


def test_without_the_switch_no_file_of_the_run_is_sent(server, tmp_path) -> None:
    logs(finished(tmp_path), WandbLoggers())
    (run_id,) = server.runs
    assert [one["artifactCollectionName"] for one in server.artifacts] == [f"run-{run_id}-rollouts"]


def test_a_job_that_fails_closes_its_run_with_status_1(server, tmp_path) -> None:
    logs(finished(tmp_path), WandbLoggers(), failed=True)
    (run,) = server.runs.values()
    assert run.exit_code == 1
