from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.benchmark

SCRIPT = Path(__file__).parents[2] / "experiments" / "compare_rollouts.py"
SMALL = ["dataset.num_users=60", "dataset.num_items=40", "backbone.hidden_size=32", "backbone.vocabulary=400"]


@pytest.fixture
def finished_run(command, tmp_path) -> Path:
    done = command("train", "debug=fast", *SMALL, "hydra.run.dir=run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    return tmp_path / "run"


@pytest.mark.slow
def test_every_rollout_starts_from_the_same_policy_and_a_misspelt_key_is_refused(finished_run):
    settings = [f"run={finished_run}", "rollouts=constrained,enumerate", "seeds=0,1", "every=2", "users=20"]
    settings += ["grpo.max_steps=4", "grpo.learning_rate=0.01"]
    done = subprocess.run([sys.executable, str(SCRIPT), *settings], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    # Before the first step, after two and after four; two rollouts, two seeds.
    assert [line["ranking"] for line in lines] == [0, 1, 2] * 4
    before = [line for line in lines if line["ranking"] == 0]
    assert {(line["NDCG@10"], line["seconds"]) for line in before} == {(before[0]["NDCG@10"], 0.0)}
    assert [(line["rollout"], line["seed"]) for line in before] == [
        ("constrained", 0),
        ("enumerate", 0),
        ("constrained", 1),
        ("enumerate", 1),
    ]
    after = [line for line in lines if line["ranking"] == 2]
    assert len({line["MRR"] for line in after} | {before[0]["MRR"]}) > 2
    assert all(0 < one["seconds"] < two["seconds"] for one, two in zip(lines[1::3], lines[2::3], strict=True))
    settings = [f"run={finished_run}", "grpo.max_step=4"]
    done = subprocess.run([sys.executable, str(SCRIPT), *settings], capture_output=True, text=True)
    assert done.returncode == 1
    assert "grpo.max_step" in done.stderr


def test_wrong_use_is_said():
    done = subprocess.run([sys.executable, str(SCRIPT), "run=nowhere"], capture_output=True, text=True)
    assert done.returncode == 1
    assert "nowhere is no finished run" in done.stderr
