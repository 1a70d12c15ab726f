"""Whole jobs with item tokens in their prompts, and their runs opened again."""

from __future__ import annotations

import csv
import json

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from mllmrec.baselines.weights_file import read_weights
from mllmrec.errors import UserError
from mllmrec.evaluation.protocols import Place, main_protocol
from mllmrec.jobs.finished_run import open_run
from mllmrec.jobs.recommendation import rank_items
from mllmrec.models.item_vectors import ItemVectorEmbedding
from mllmrec.randomness import seeded_globals
from mllmrec.run.folder import RunFolder

LLARA = (
    "method=llara",
    "method.item_vectors.max_epochs=2",
    "method.item_vectors.hidden_size=8",
    "mix_ratio=0",
)


def metrics_of(folder):
    return json.loads((folder / "metrics.json").read_text(encoding="utf-8"))


def ranks_as_it_did(folder, again, stage):
    run = open_run(str(folder), stage)
    protocol = main_protocol(run.cfg.eval, "uniform", run.cfg.protocol_seed, run.prepared)
    again.record_protocol(protocol.describe(), protocol.chance())
    Place(protocol, again.path).record(stage, lambda: run.ranker(protocol))
    before = [row for row in pq.read_table(folder / "per_user.parquet").to_pylist() if row["stage"] == stage]
    after = pq.read_table(again.per_user_path).to_pylist()
    assert {row["user_id"]: row["ranking"] for row in before} == {
        row["user_id"]: row["ranking"] for row in after
    }
    return run


@pytest.mark.parametrize("engine", ["shared_prefix", "plain"])
def test_a_run_from_scratch_ends_and_is_opened_again(job, tmp_path, engine):
    folder = job(tmp_path / "run", *LLARA, f"engine={engine}", "logger=csv")
    metrics = metrics_of(folder)
    assert list(metrics["stages"]) == ["zero_shot", "warmup", "sft"]
    assert set(metrics["cost"]) == {"item_vectors", "warmup", "sft"}
    with (folder / "log.csv").open(encoding="utf-8") as stream:
        assert {row["stage"] for row in csv.DictReader(stream)} == {"item_vectors", "warmup", "sft"}
    run = ranks_as_it_did(folder, RunFolder(tmp_path / "again"), "sft")
    assert "<|item:" in run.prepared.train[0].prompt
    ranked = rank_items(
        run, run.prepared.samples["test"].history(0).tolist(), set(), candidates=["1", "2", "3"]
    )
    assert len(ranked) == 3


def test_the_vectors_may_read_texts_with_a_sentence_encoder(job, tmp_path, sentence_folder):
    texts = (
        "text_encoder=sentence",
        f"text_encoder.path={sentence_folder}",
        f"cache_dir={tmp_path / 'cache'}",
    )
    folder = job(tmp_path / "llara", *LLARA, "method=llara_text", *texts)
    alone = ("recommender.max_epochs=2", "recommender.hidden_size=8")
    settings = (f"method.{setting}" for setting in alone)
    classical = job(tmp_path / "sasrec", "method=sasrec_text", *settings, *texts)
    weights = read_weights(classical / "model", "sasrec_text", 40)
    of_texts = weights["items.features"] @ weights["items.project.weight"].T + weights["items.project.bias"]
    expected = torch.from_numpy(weights["items.own.weight"] + of_texts)
    found = load_file(folder / "model" / "item_tokens.safetensors")["item_vectors"]
    torch.testing.assert_close(found, expected / expected.square().mean().sqrt())
    # The second job encoded nothing.
    assert len(list((tmp_path / "cache" / "text_vectors").iterdir())) == 1


def test_prompts_that_are_too_long_are_refused_before_the_recommender_trains(job, tmp_path):
    with pytest.raises(UserError, match="longer than the backbone holds"):
        job(tmp_path / "run", *LLARA, "backbone.max_length=20")
    assert "item_vectors" not in RunFolder(tmp_path / "run").metrics()["cost"]


def test_the_vectors_are_those_that_the_recommender_alone_learns_at_mean_square_one(job, tmp_path):
    folder = job(tmp_path / "llara", *LLARA)
    alone = ("recommender.max_epochs=2", "recommender.hidden_size=8")
    classical = job(tmp_path / "sasrec", "method=sasrec", *(f"method.{setting}" for setting in alone))
    weights = read_weights(classical / "model", "sasrec", 40)["items.own.weight"]
    found = load_file(folder / "model" / "item_tokens.safetensors")["item_vectors"]
    assert float(found.square().mean()) == pytest.approx(1)
    scale = float((weights**2).mean()) ** 0.5
    torch.testing.assert_close(found * scale, torch.from_numpy(weights))


def test_beside_adapters_each_stage_keeps_the_projector_that_it_ends_with(job, tmp_path, adapters):
    settings = (*adapters, *LLARA, "method.phases=[sft,grpo]", "grpo.new_negatives=false")
    folder = job(tmp_path / "run", *settings, "sft.learning_rate=1e-2", small=False)
    assert list(metrics_of(folder)["stages"]) == ["zero_shot", "sft", "grpo"]
    stored = [load_file(folder / "adapters" / stage / "item_tokens.safetensors") for stage in ("sft", "grpo")]
    # GRPO's reference is the model without its adapter, so it leaves the projector alone.
    assert all(torch.equal(stored[0][name], part) for name, part in stored[1].items())
    with seeded_globals(0, "item-projector"):
        first = ItemVectorEmbedding(
            torch.nn.Embedding(1, 32), stored[0]["item_vectors"], first=1
        ).item_state()
    learnt = [name for name, part in first.items() if (stored[0][name] - part).abs().max() > 1e-4]
    assert learnt == [name for name in first if name != "item_vectors"]
    for stage in ("sft", "grpo"):
        ranks_as_it_did(folder, RunFolder(tmp_path / stage), stage)


@pytest.mark.parametrize("backbone", ["scratch", "adapters"])
def test_jobs_share_a_stage_with_its_projector(job, tmp_path, adapters, backbone):
    settings = [*LLARA, f"cache_dir={tmp_path / 'cache'}", "share_stages=true"]
    extra = {"small": backbone == "scratch"}
    settings = [*([] if extra["small"] else adapters), *settings]
    folders = [job(tmp_path / name, *settings, **extra) for name in ("first", "second")]
    stored = list((tmp_path / "cache" / "stages").glob("*/weights.safetensors"))
    assert len(stored) == (2 if extra["small"] else 1)
    found = [metrics_of(folder) for folder in folders]
    costs = [metrics.pop("cost") for metrics in found]
    assert found[0] == found[1]
    assert costs[0]["sft"] == costs[1]["sft"]
    # Other vectors make a different SFT.
    job(tmp_path / "third", *settings, "method.item_vectors.learning_rate=1e-2", **extra)
    assert len(list((tmp_path / "cache" / "stages").glob("*/weights.safetensors"))) == 2 * len(stored)
