from __future__ import annotations

import json

import pyarrow.parquet as pq
import pytest

from mllmrec.errors import ConfigError
from mllmrec.evaluation.protocols import Place, main_protocol
from mllmrec.jobs.finished_run import open_run
from mllmrec.run.folder import RunFolder

VISUAL = ("method=visual", "backbone=tiny_vl", "backbone.vision_size=16")


def metrics_of(folder):
    return json.loads((folder / "metrics.json").read_text())


@pytest.mark.parametrize("engine", ["plain", "shared_prefix"])
def test_a_policy_that_sees_is_trained_and_reopened(job, tmp_path, engine):
    folder = job(tmp_path / "run", *VISUAL, f"engine={engine}", "mix_ratio=0")
    metrics = metrics_of(folder)
    assert list(metrics["stages"]) == ["zero_shot", "warmup", "sft", "grpo"]
    cost = metrics["cost"]["grpo"]
    assert cost["seconds_per_step"] > 0
    run = open_run(str(folder), None)
    again = RunFolder(tmp_path / "again")
    protocol = main_protocol(run.cfg.eval, "uniform", run.cfg.protocol_seed, run.prepared)
    again.record_protocol(protocol.describe(), protocol.chance())
    Place(protocol, again.path).record("grpo", lambda: run.ranker(protocol))
    before, after = (
        {r["user_id"]: r["ranking"] for r in pq.read_table(path).to_pylist() if r["stage"] == "grpo"}
        for path in (folder / "per_user.parquet", again.per_user_path)
    )
    assert before == after


def test_images_cost_tokens_that_the_same_model_without_them_does_not(job, tmp_path):
    short = ("method.phases=[sft]", "mix_ratio=0", "heldout.users=0", "eval.max_users=5", "sft.max_steps=1")
    text = job(tmp_path / "text", "backbone=tiny_vl", "caption=none", "backbone.vision_size=16", *short)
    visual = job(tmp_path / "visual", *VISUAL, *short)
    tokens = [metrics_of(folder)["cost"]["sft"]["tokens_per_prompt"] for folder in (text, visual)]
    # An image of 64 x 64 pixels takes 4 tokens between two others: 6 each for 10 candidates and 2 to 9 history items.
    assert 12 * 6 <= tokens[1] - tokens[0] <= 19 * 6
    # The first example is the same before and after: the text policy saw no mark.
    prompts = [open_run(str(folder), None).prepared.train[0].prompt for folder in (text, visual)]
    assert "<|item:" not in prompts[0]
    assert "<|item:" in prompts[1]


def test_questions_about_single_candidates_show_images_too(job, tmp_path):
    folder = job(
        tmp_path / "run",
        *VISUAL,
        "method.phases=[pointwise]",
        "eval.ranking=pointwise",
        "engine=plain",
        "mix_ratio=0",
        "pointwise.max_steps=1",
        "pointwise.batch_size=2",
        "eval.max_users=4",
    )
    assert list(metrics_of(folder)["stages"]) == ["zero_shot", "pointwise"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["method=visual"], "prompt.item_tokens=image with a backbone that reads only text"),
        ([*VISUAL, "sft.loss_on=all"], "the policy cannot write images"),
        ([*VISUAL, "method.phases=[pointwise]", "eval.ranking=pointwise"], "set engine=plain"),
        ([*VISUAL, "backbone.min_pixels=70000"], "backbone.min_pixels=70000 exceeds"),
        ([*VISUAL, "backbone.vision_heads=3"], "multiple of four times"),
        ([*VISUAL, "backbone.vision_layers=0"], "backbone.vision_layers=0"),
    ],
)
def test_wrong_settings_are_refused_before_anything_is_built(job, tmp_path, overrides, message):
    with pytest.raises(ConfigError) as caught:
        job(tmp_path / "run", *overrides)
    assert any(message in fault for fault in caught.value.faults)
