"""A policy that describes the user and ranks from the description, from the command line to recommendations."""

from __future__ import annotations

import json

import pyarrow.parquet as pq
import pytest

from mllmrec.jobs.finished_run import open_run
from mllmrec.jobs.recommendation import rank_items

pytestmark = pytest.mark.slow


def test_profiles_are_learnt_drawn_ranked_from_and_recommended_from(job, tmp_path):
    limits = ("rollout.max_reasoning_tokens=66", "eval.max_reasoning_tokens=66", "eval.listing=all")
    folder = job(tmp_path / "run", "task=profiled", "share_stages=true", *limits)
    prompts = (folder / "prompts.md").read_text()
    assert "Think\n```\n\nAnswer:\n\n```text\n<think>\n" in prompts  # the first prompt and a profile
    assert "```text\nHint " in prompts  # the second prompt
    said = pq.read_table(folder / "rollouts.parquet").to_pylist()
    assert said
    assert all(row["completion"].startswith("<think>\n") for row in said)
    metrics = json.loads((folder / "metrics.json").read_text())
    assert list(metrics["faithfulness"]) == ["sft", "grpo"]
    run = open_run(str(folder), None)
    items = run.prepared.items.ids[:4].tolist()
    ranked = rank_items(run, [0, 1, 2], set(), candidates=items)
    assert sorted(item for item, _ in ranked) == [0, 1, 2, 3]
