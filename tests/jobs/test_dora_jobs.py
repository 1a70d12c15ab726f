"""A run whose adapters are DoRA with rsLoRA comes to its end, and can be evaluated again."""

from __future__ import annotations

import json

import pyarrow.parquet as pq
from peft import PeftConfig


def rankings(folder, stage):
    rows = pq.read_table(folder / "per_user.parquet").to_pylist()
    return {row["user_id"]: row["ranking"] for row in rows if row["stage"] == stage}


def test_a_run_of_gazal_r1_is_evaluated_again(job, adapters, command, tmp_path):
    settings = [
        "variant=gazal_r1",
        "cot_policy=views",
        "cot_policy.pictures=0",
        "prompt.max_title_words=2",
        "caption=none",
        "task=reasoned",
        "rollout.max_reasoning_tokens=72",
        "eval.max_reasoning_tokens=72",
    ]
    run = job(tmp_path / "run", *adapters, *settings, small=False)
    adapter = PeftConfig.from_pretrained(run / "adapters" / "grpo")
    assert (adapter.use_dora, adapter.use_rslora) == (True, True)
    done = command("evaluate", f"run={run}", "hydra.run.dir=again", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    again = tmp_path / "again"
    assert list(json.loads((again / "metrics.json").read_text())["stages"]) == ["grpo"]
    assert rankings(again, "grpo") == rankings(run, "grpo")
