from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from mllmrec.errors import UserError
from mllmrec.run.cost import CostMeter
from mllmrec.run.folder import RunFolder
from mllmrec.run.rollouts import Rollout, RolloutWriter, read_rollouts

PROTOCOL = {
    "dataset": "toy",
    "split": "test",
    "users": 4,
    "ranking": "likelihood",
    "num_candidates": 10,
    "negatives": "uniform",
    "candidates_hash": "abc",
    "seed": 0,
}


def fill(folder, seconds):
    folder.record_protocol(PROTOCOL, {"HR@1": 0.1})
    folder.record_reasoning(0.5, 1 / 3)
    folder.record_stage(
        "sft", {"HR@1": np.float64(2 / 3)}, {"HR@1": np.array([0.5, 5 / 6])}, {"invalid": 0.0}
    )
    folder.record_slices("sft", {"cold": {"users": 1, "few": True, "metrics": {"HR@1": 2 / 3}}})
    folder.record_difference(
        "grpo", "sft", {"HR@1": {"mean": -1 / 3, "interval": [-0.5, 0.1], "p": 0.25, "users": np.int64(4)}}
    )
    folder.record_cost("sft", {"seconds": seconds, "generated_tokens": 0, "peak_memory_mb": 1.5})
    return folder


def test_metrics_json_has_the_contracts_sections_and_six_decimals(tmp_path):
    folder = fill(RunFolder(tmp_path), seconds=1.0)
    content = json.loads((tmp_path / "metrics.json").read_text())
    assert content == {
        "protocol": PROTOCOL,
        "chance": {"HR@1": 0.1},
        "reasoning": {"mix_ratio": 0.5, "share": 0.333333},
        "baselines": {},
        "stages": {"sft": {"HR@1": 0.666667}},
        "intervals": {"sft": {"HR@1": [0.5, 0.833333]}},
        "slices": {"sft": {"cold": {"users": 1, "few": True, "metrics": {"HR@1": 0.666667}}}},
        "validity": {"sft": {"invalid": 0.0}},
        "differences": {
            "grpo - sft": {"HR@1": {"mean": -0.333333, "interval": [-0.5, 0.1], "p": 0.25, "users": 4}}
        },
        "weights": {},
        "faithfulness": {},
        "cost": {"sft": {"seconds": 1.0, "generated_tokens": 0, "peak_memory_mb": 1.5}},
    }
    assert folder.metrics() == content


def test_identical_runs_write_identical_bytes_apart_from_cost(tmp_path):
    texts = []
    for name, seconds in (("one", 1.0), ("two", 2.0)):
        fill(RunFolder(tmp_path / name), seconds)
        texts.append((tmp_path / name / "metrics.json").read_text())
    assert texts[0] != texts[1]
    assert texts[0].split('"cost"')[0] == texts[1].split('"cost"')[0]


def test_nothing_is_written_before_a_number_is_computed(tmp_path):
    folder = RunFolder(tmp_path / "run")
    assert list((tmp_path / "run").iterdir()) == []
    folder.record_protocol(PROTOCOL)
    assert folder.metrics()["stages"] == {}


def test_a_number_never_stands_without_its_protocol(tmp_path):
    with pytest.raises(ValueError, match="record the protocol"):
        RunFolder(tmp_path).record_stage("sft", {"HR@1": 0.5}, {}, {})
    assert not (tmp_path / "metrics.json").exists()


def test_another_protocol_cannot_overwrite_the_first(tmp_path):
    # Fault 28 of the release: results named by tag and K, so another number of negatives overwrites them.
    folder = fill(RunFolder(tmp_path), seconds=1.0)
    before = folder.metrics_path.read_bytes()
    with pytest.raises(UserError, match=r"another protocol \(candidates_hash, num_candidates differ\)"):
        folder.record_protocol({**PROTOCOL, "num_candidates": 100, "candidates_hash": "def"})
    assert folder.metrics_path.read_bytes() == before
    folder.record_protocol(PROTOCOL)
    assert folder.metrics()["stages"] == {"sft": {"HR@1": 0.666667}}


def test_what_is_no_number_is_refused_and_the_file_stays(tmp_path):
    folder = fill(RunFolder(tmp_path), seconds=1.0)
    before = folder.metrics_path.read_bytes()
    with pytest.raises(ValueError, match="nan is not a number"):
        folder.record_stage("grpo", {"HR@1": float("nan")}, {}, {})
    assert folder.metrics_path.read_bytes() == before


def test_starting_afresh_removes_results_and_nothing_else(tmp_path):
    folder = fill(RunFolder(tmp_path), seconds=1.0)
    (tmp_path / "notes.txt").write_text("mine")
    folder.start_afresh()
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_folder_without_metrics_is_no_finished_run(tmp_path):
    with pytest.raises(UserError, match=r"no finished run .* run=DIR"):
        RunFolder.of_finished_run(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()
    fill(RunFolder(tmp_path), seconds=1.0)
    assert RunFolder.of_finished_run(tmp_path).metrics()["protocol"] == PROTOCOL


def test_damaged_metrics_say_so(tmp_path):
    (tmp_path / "metrics.json").write_text("{")
    with pytest.raises(UserError, match="is not JSON"):
        RunFolder(tmp_path).metrics()


def rollout(step, reward=1.0):
    parts = {"hit": reward, "format": 0.0}
    return Rollout(
        step=step, prompt_id=f"u{step}", completion="[ITEM_1]", reward=reward, parts=parts, advantage=-0.5
    )


def test_rollouts_read_back_with_the_contracts_columns(tmp_path):
    path = tmp_path / "rollouts.parquet"
    with RolloutWriter(path) as writer:
        writer.append([rollout(0), rollout(0, 0.3)])
        writer.append([rollout(50)])
    assert read_rollouts(path) == [rollout(0), rollout(0, 0.3), rollout(50)]
    columns = ["step", "prompt_id", "completion", "reward", "parts", "advantage"]
    assert pq.read_schema(path).names == columns


def test_a_failed_stage_keeps_the_rollouts_before_the_failure(tmp_path):
    path = tmp_path / "rollouts.parquet"

    def diverge():
        with RolloutWriter(path) as writer:
            writer.append([rollout(3)])
            raise RuntimeError("diverged")

    with pytest.raises(RuntimeError, match="diverged"):
        diverge()
    assert read_rollouts(path) == [rollout(3)]


def test_a_resumed_stage_drops_the_rollouts_it_will_sample_again(tmp_path):
    path = tmp_path / "rollouts.parquet"
    with RolloutWriter(path) as writer:
        writer.append([rollout(0), rollout(10), rollout(20)])
    with RolloutWriter(path, from_step=10) as writer:
        writer.append([rollout(10)])
    assert [entry.step for entry in read_rollouts(path)] == [0, 10]


def test_missing_rollouts_say_why(tmp_path):
    with pytest.raises(UserError, match="no GRPO phase"):
        read_rollouts(tmp_path / "rollouts.parquet")


def test_cost_measures_time_memory_and_tokens():
    with CostMeter() as meter:
        block = torch.ones(64 << 18)  # 64 MiB of float32
        meter.generated_tokens += len(block[:7])
    cost = meter.cost()
    assert list(cost) == ["seconds", "generated_tokens", "peak_memory_mb"]
    assert cost["generated_tokens"] == 7
    assert cost["seconds"] > 0
    assert cost["peak_memory_mb"] >= 64


def test_cost_has_the_mean_length_of_prompts_and_the_median_step():
    with CostMeter() as meter:
        meter.prompts, meter.prompt_tokens = 3, 100
        meter.step_seconds = [9.0, 1.0, 2.0]
    cost = meter.cost()
    assert (cost["tokens_per_prompt"], cost["seconds_per_step"]) == (33.3, 2.0)
