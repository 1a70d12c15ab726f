"""Whole jobs that end with DPO or expert iteration, and their runs opened again."""

from __future__ import annotations

import csv
import json
import math

import pyarrow.parquet as pq
import pytest
from peft import PeftConfig

from mllmrec.evaluation.protocols import Place, main_protocol
from mllmrec.jobs.finished_run import open_run
from mllmrec.run.folder import RunFolder

SHORT = {
    "dpo": ["dpo.max_steps=3", "dpo.prompts_per_step=4"],
    "expert_iteration": [
        "expert_iteration.max_steps=2",
        "expert_iteration.prompts_per_round=6",
        "expert_iteration.batch_size=4",
        "expert_iteration.group_size=3",
    ],
}


def logged_by(folder, stage):
    with (folder / "log.csv").open(encoding="utf-8") as stream:
        rows = [row for row in csv.DictReader(stream) if row["stage"] == stage and row["loss"]]
    return sorted(rows, key=lambda row: int(row["step"]))


def ranks_as_it_did(folder, again, stage):
    run = open_run(str(folder), None)
    assert run.stage == stage
    protocol = main_protocol(run.cfg.eval, "uniform", run.cfg.protocol_seed, run.prepared)
    again.record_protocol(protocol.describe(), protocol.chance())
    Place(protocol, again.path).record(stage, lambda: run.ranker(protocol))
    before = [row for row in pq.read_table(folder / "per_user.parquet").to_pylist() if row["stage"] == stage]
    after = pq.read_table(again.per_user_path).to_pylist()
    return {row["user_id"]: row["ranking"] for row in before} == {
        row["user_id"]: row["ranking"] for row in after
    }


@pytest.mark.parametrize("stage", ["dpo", "expert_iteration"])
def test_a_run_ends_with_the_stage_and_is_opened_again(job, tmp_path, stage):
    folder = job(tmp_path / "run", f"method={stage}", *SHORT[stage], "logger=csv")
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    assert list(metrics["stages"]) == ["zero_shot", "warmup", "sft", stage]
    assert set(metrics["differences"]) == {"warmup - zero_shot", "sft - warmup", f"{stage} - sft"}
    rows = logged_by(folder, stage)
    if stage == "dpo":
        assert [row["step"] for row in rows] == ["0", "1", "2"]
        assert float(rows[0]["loss"]) == pytest.approx(math.log(4), abs=1e-5)  # three negatives
        assert float(rows[0]["rewards/margins"]) == pytest.approx(0, abs=1e-4)
        assert metrics["cost"][stage]["generated_tokens"] == 0
    else:
        assert [row["step"] for row in rows] == ["1", "3"]  # the last of two updates a round
        # 2 rounds x 6 prompts x 3 answers, an id and the end token each
        assert metrics["cost"][stage]["generated_tokens"] == 2 * 6 * 3 * 2
        assert all(0 <= float(row["kept/prompts"]) <= 1 for row in rows)
    assert ranks_as_it_did(folder, RunFolder(tmp_path / "again"), stage)


@pytest.mark.parametrize("stage", ["dpo", "expert_iteration"])
def test_adapters_of_the_stage_are_stacked_on_those_of_sft(job, tmp_path, adapters, stage):
    folder = job(
        tmp_path / "run",
        *adapters,
        f"method={stage}",
        *SHORT[stage],
        "logger=csv",
        "candidates.num_negatives=3",
        "heldout.keep=last",
        small=False,
    )
    for name in ("sft", stage):
        assert PeftConfig.from_pretrained(folder / "adapters" / name).r == 4
    if stage == "dpo":
        assert float(logged_by(folder, stage)[0]["rewards/chosen"]) == pytest.approx(0, abs=1e-4)
    assert ranks_as_it_did(folder, RunFolder(tmp_path / "again"), stage)
