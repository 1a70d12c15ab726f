"""A run whose adapters are DoRA with rsLoRA comes to its end, and can be evaluated again."""

from __future__ import annotations

import pyarrow.parquet as pq
from peft import PeftConfig

from mllmrec.evaluation.protocols import Place, main_protocol
from mllmrec.jobs.finished_run import open_run
from mllmrec.run.folder import RunFolder


def rankings(folder, stage):
    rows = pq.read_table(folder / "per_user.parquet").to_pylist()
    return {row["user_id"]: row["ranking"] for row in rows if row["stage"] == stage}


def test_a_run_of_gazal_r1_is_evaluated_again(job, adapters, tmp_path):
    settings = [
        "variant=gazal_r1",
        "cot_policy=views",
        "cot_policy.pictures=0",
        "prompt.max_title_words=2",
        "caption=none",
        "task=reasoned",
        "rollout.max_reasoning_tokens=72",
        "eval.max_reasoning_tokens=72",
        "eval.faithfulness=false",
    ]
    run = job(tmp_path / "run", *adapters, *settings, small=False)
    adapter = PeftConfig.from_pretrained(run / "adapters" / "grpo")
    assert (adapter.use_dora, adapter.use_rslora) == (True, True)
    opened = open_run(str(run), "grpo")
    again = RunFolder(tmp_path / "again")
    protocol = main_protocol(opened.cfg.eval, "uniform", opened.cfg.protocol_seed, opened.prepared)
    again.record_protocol(protocol.describe(), protocol.chance())
    Place(protocol, again.path).record("grpo", lambda: opened.ranker(protocol))
    assert rankings(again.path, "grpo") == rankings(run, "grpo")
