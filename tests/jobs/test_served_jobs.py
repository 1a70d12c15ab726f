"""Whole jobs whose rollouts a server on loopback draws: one that dies and goes on, and one that reasons."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
from loopback_vllm import LoopbackVllm

from mllmrec.errors import UserError

QUICK = (
    *(
        "method=grpo_only",
        "caption=none",
        "cot_policy=none",
        "mix_ratio=0",
        "heldout.users=0",
        "baselines=null",
    ),
    *("generator=vllm", "generator.attempts=2", "generator.backoff_seconds=0.01", "grpo.learning_rate=0.01"),
    # Random answers earn nothing, so that the policy moves by its entropy.
    *("+regularizers.entropy._target_=mllmrec.rl.regularizers.EntropyBonus", "grpo.warmup_ratio=0"),
    *("grpo.prompts_per_step=2", "grpo.group_size=4", "grpo.max_steps=4", "eval.max_users=4"),
)


@pytest.fixture
def loopback(checkpoints):
    server = LoopbackVllm(checkpoints("qwen3"))
    yield server
    server.shutdown()
    server.server_close()


def rows(run: Path) -> list[dict[str, float]]:
    with (run / "log.csv").open() as stream:
        logged = list(csv.DictReader(stream))
    return [
        {name: float(value) for name, value in row.items() if value and name != "stage"} for row in logged
    ]


def versions(server: LoopbackVllm) -> list[str]:
    return [name.rpartition("-")[2] for name in server.loaded()]


def test_a_server_dies_and_the_run_goes_on_at_another_address(job, adapters, loopback, checkpoints, tmp_path):
    free = (
        *(*adapters, *QUICK, "rollout=free", "rollout.max_new_tokens=6", "generator.max_lag=1"),
        *("resume=auto", "checkpoint.steps=1"),
    )
    # Two requests a step, of which the first step's also come for the second one.
    dies_after = 6

    def plan(path, body):
        asked = sum(path == "/v1/completions" for path in loopback.paths())
        return (
            "hang up" if path == "/v1/completions" and asked > dies_after + 1 else None
        )  # one is the check's

    loopback.plan = plan
    with pytest.raises(UserError, match="came to nothing in 2 tries, the last with no connection") as raised:
        job(tmp_path / "run", *free, f"generator.base_url={loopback.url}", small=False)
    assert "resume=auto the run goes on from its last checkpoint" in str(raised.value)
    saved = tmp_path / "run" / "resume" / "grpo"
    assert [path.name for path in sorted(saved.glob("*.ckpt"))][-1] == "step-000000003.ckpt"

    other = LoopbackVllm(checkpoints("qwen3"))
    run = job(tmp_path / "run", *free, f"generator.base_url={other.url}", small=False)
    other.shutdown()
    other.server_close()
    found = rows(run)
    assert len(found) == 4
    # The step after the checkpoint has nothing that was drawn ahead.
    assert [row["sampling/policy_lag"] for row in found] == [0, 1, 1, 0]
    assert all(row["sampling/importance_sampling_ratio/max"] <= 2.0 for row in found)
    assert found[0]["sampling/sampling_logp_difference/max"] < 1e-3
    assert found[1]["sampling/sampling_logp_difference/max"] > 1e-3
    assert versions(loopback)[:4] == ["check", "000000", "000001", "000002"]
    assert versions(other) == ["check", "000003"]
    assert other.adapters == {}
    assert not (run / "served_adapters").exists()
    assert json.loads((run / "metrics.json").read_text())["cost"]["grpo"]["generated_tokens"] > 0


def test_reasoning_is_drawn_by_the_server_for_a_stack_of_adapters(job, adapters, checkpoints, tmp_path):
    # The reasoning that SFT teaches needs a longer context.
    shutil.copytree(checkpoints("qwen3"), tmp_path / "long")
    config = tmp_path / "long" / "config.json"
    config.write_text(
        config.read_text().replace('"max_position_embeddings": 512', '"max_position_embeddings": 1024')
    )
    loopback = LoopbackVllm(str(tmp_path / "long"), max_model_len=1024)
    words = (
        "cot_policy=template",
        "mix_ratio=1",
        "task=reasoned",
        "method=mllmrec_r1",
        "rollout.max_reasoning_tokens=140",
        "eval.max_reasoning_tokens=140",
    )
    limits = ("grpo.max_steps=2", "grpo.group_size=2", "eval.faithfulness=false", "sft.max_steps=2")
    shared = (f"generator.base_url={loopback.url}", f"generator.adapter_folder={tmp_path / 'shared'}")
    long = f"backbone.path={tmp_path / 'long'}"
    run = job(tmp_path / "run", *adapters, long, *QUICK, *words, *limits, *shared, small=False)
    loopback.shutdown()
    loopback.server_close()
    found = [row for row in rows(run) if "sampling/policy_lag" in row]
    assert [row["sampling/policy_lag"] for row in found] == [0, 0]
    assert all(row["sampling/sampling_logp_difference/max"] < 1e-2 for row in found)
    asked = [body for path, body in loopback.calls if path == "/v1/completions"]
    assert asked[1]["stop"] == ["</think>"]
    assert versions(loopback) == ["check", "000000", "000001"]
    assert list((tmp_path / "shared").iterdir()) == []


def test_a_server_that_cannot_is_refused_before_the_run_begins(
    job, adapters, loopback, tmp_path, monkeypatch
):
    monkeypatch.setattr(loopback, "updating", False)
    settings = (*adapters, *QUICK, "rollout=free", f"generator.base_url={loopback.url}")
    with pytest.raises(UserError, match="takes no adapters while it runs"):
        job(tmp_path / "run", *settings, small=False)
    assert not (tmp_path / "run" / "log.csv").exists()
    assert not (tmp_path / "run" / "data.json").exists()
