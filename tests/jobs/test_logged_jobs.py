from __future__ import annotations

import json

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from offline_wandb import read_run

from mllmrec.config import CONFIG_DIR
from mllmrec.jobs.main import labels
from mllmrec.run.folder import RunFolder


@pytest.mark.parametrize(
    ("typed", "group"),
    [
        (["variant=rank_grpo", "hydra.mode=MULTIRUN", "hydra.sweep.dir=sweeps/mine"], "mine"),
        (["variant=rank_grpo", "hydra.mode=RUN"], None),
    ],
)
def test_jobs_of_a_sweep_have_its_name_as_group_and_their_choices_as_tags(
    tmp_path, monkeypatch, typed, group
):
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        monkeypatch.setattr(HydraConfig.instance(), "cfg", compose("train", typed, return_hydra_config=True))
    found = labels(RunFolder(tmp_path / "0"))
    assert (found.group, found.name) == (group, "0")
    assert found.tags[:3] == ["dataset=synthetic", "method=mllmrec_r1", "variant=rank_grpo"]


def test_the_services_run_of_a_job_says_what_it_was_and_what_came_out(job, tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")
    folder = job(tmp_path / "run", "logger=wandb", "seed=3")
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    run = read_run(folder)
    assert (run.config["seed"], run.config["grpo"]["group_size"]) == (3, 4)
    assert run.config["protocol"] == metrics["protocol"]
    for stage, values in metrics["stages"].items():
        assert {name: run.summary[f"test/{stage}/{name}"] for name in values} == values
    losses = [
        (row["trainer/global_step"], stage)
        for row in run.history
        for stage in ("warmup", "sft", "grpo")
        if f"{stage}/loss" in row
    ]
    assert losses == sorted(losses, key=lambda point: point[0])
    assert {stage for _, stage in losses} == {"warmup", "sft", "grpo"}
    assert any("grpo/val/NDCG@3" in row for row in run.history)
    assert list((run.files / "media" / "images").glob("curves*.png"))
    assert list((run.files / "media" / "table").glob("rollouts*.json"))
    assert run.exit_code == 0
