from __future__ import annotations

import json

import pytest
import wandb
from loopback_wandb import ENTITY, serving

from mllmrec.reporting.page import make_section
from mllmrec.reporting.pictures import draw_pictures
from mllmrec.reporting.wandb_report import build, send

pytest.importorskip("wandb_workspaces")


@pytest.fixture
def sections(tmp_path, write_run, experiment):
    runs = tmp_path / "runs"
    write_run(runs / "a", [1, 9, 9, 9], typed=["method=sft"])
    write_run(runs / "b", [1, 1, 9, 9], method="grpo_only", typed=["method=grpo_only"])
    study = experiment(runs, name="toy")
    return [make_section(study, draw_pictures(study, tmp_path / "out"))]


def test_the_wandb_report_holds_the_tables_and_the_pictures_of_its_run(sections):
    report = build("T" * 200, sections, "project", entity="", run_id="abc123")
    # What would be sent, in wandb's own schema.
    spec = json.loads(report._to_model().spec.model_dump_json(by_alias=True, exclude_none=True))
    text = json.dumps(spec)
    assert len(report.title) == 128
    assert "| sft |" in text
    assert "**0.500**" in text
    assert '"1-toy/cost"' in text
    assert "abc123" in text
    kinds = [block["type"] for block in spec["blocks"]]
    assert kinds.count("markdown-block") == 2
    assert kinds.count("panel-grid") == 1


def test_a_report_is_sent_with_its_pictures_to_a_server(sections, tmp_path, monkeypatch):
    wandb.teardown()
    with serving() as server:
        for key, value in {
            "WANDB_BASE_URL": server.url,
            "WANDB_API_KEY": "x" * 40,
            "WANDB_SILENT": "true",
        }.items():
            monkeypatch.setenv(key, value)
        monkeypatch.delenv("WANDB_MODE", raising=False)
        said = send("Sizes", sections, tmp_path, "mllmrec", None)
        wandb.teardown()
    ((run_id, run),) = server.runs.items()
    assert said == f"wandb report: {server.url}/team/mllmrec/reports/Sizes--v1"
    assert (run.job_type, run.exit_code) == ("report", 0)
    (view,) = server.views
    assert (view["entityName"], view["projectName"], view["displayName"]) == (ENTITY, "mllmrec", "Sizes")
    assert run_id in view["spec"]
    (picture,) = (content for path, content in server.files.items() if "/media/images/1-toy/cost" in path)
    assert picture == sections[0].pictures[0].path.read_bytes()


def test_without_a_key_nothing_is_sent(sections, tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    said = send("T", sections, tmp_path, "project", None)
    assert "not sent: set WANDB_API_KEY" in said
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert "not sent" in send("T", sections, tmp_path, "project", None)
