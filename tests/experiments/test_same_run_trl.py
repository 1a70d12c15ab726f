from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest
import torch

from mllmrec.config import CONFIG_DIR
from mllmrec.config.compose import compose_checked
from mllmrec.errors import UserError
from mllmrec.jobs.finished_run import load_policy, open_policy
from mllmrec.rewards.hit_format import HitFormat
from mllmrec.run.folder import RunFolder

pytestmark = pytest.mark.benchmark

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
SHORT = ["debug=fast", "method=sft", "dataset.num_users=60", "dataset.num_items=40", "baselines={}"]
SHORT += ["heldout.users=0", "eval.weighting=uniform", "eval.max_users=2", "hydra.run.dir=run"]
# Enough steps that some free answers are valid, and rewards differ.
TINY = ["backbone.hidden_size=32", "backbone.vocabulary=400", "warmup.max_steps=1", "sft.max_steps=20"]
TINY += ["sft.learning_rate=0.01"]
LORA = ["backbone=hf", "prompt.template=compact", "backbone.dtype=float32", "backbone.lora.rank=4"]
LORA += ["prompt.history_length=2", "candidates.num_negatives=2", "eval.ks=[1,3]"]
LORA += ["sft.batch_size=4", "sft.learning_rate=0.05"]


@pytest.fixture
def same_run(monkeypatch):
    pytest.importorskip("trl")
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    return importlib.import_module("same_run_trl")


@pytest.fixture
def trained(command, tmp_path):
    def make(*settings) -> str:
        done = command("train", *SHORT, *settings, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return str(tmp_path / "run")

    return make


def test_all_systems_start_from_the_same_policy_and_the_race_is_told(same_run, trained, capfd):
    run = trained(*TINY)
    capfd.readouterr()
    settings = [f"run={run}", "systems=ours,ours_free,trl", "every=2", "users=10", "trl_micro_batch=2"]
    assert same_run.main([*settings, "grpo.max_steps=3", "grpo.learning_rate=0.01"]) == 0
    *lines, last = map(json.loads, capfd.readouterr().out.splitlines())
    assert [line["system"] for line in lines] == ["ours"] * 3 + ["ours_free"] * 3 + ["trl"] * 3
    # Before the first step, after two, and at the end.
    assert [line["step"] for line in lines] == [0, 2, 3] * 3
    starts = [{**line, "system": ""} for line in lines if line["step"] == 0]
    assert starts[0] == starts[1] == starts[2]
    assert (starts[0]["seconds"], starts[0]["tokens"], starts[0]["valid"]) == (0, 0, None)
    for before, after in (lines[0:2], lines[1:3], lines[3:5], lines[4:6], lines[6:8], lines[7:9]):
        assert before["seconds"] < after["seconds"]
        assert -1 <= after["reward"] <= 1
        # Two prompts with four completions of one or two tokens, the longest answer, in each step.
        rollouts = 8 * (after["step"] - before["step"])
        assert rollouts <= after["tokens"] - before["tokens"] <= 2 * rollouts
    assert all(line["valid"] == 1 for line in lines[1:3])
    assert len({line["NDCG@3"] for line in lines[6:9]}) > 1
    best = max(line["NDCG@3"] for line in lines[6:9])
    assert last["best NDCG@3 of trl"] == best
    first = next(line for line in lines[6:9] if line["NDCG@3"] == best)
    assert last["first reached"]["trl"] == {key: first[key] for key in ("step", "seconds")}


def test_trl_trains_the_sft_policy_against_it(same_run, trained, checkpoints, tmp_path):
    run = trained(*LORA, f"backbone.path={checkpoints('qwen3')}")
    for adapter in ("continued", "stacked"):
        _check_training(same_run, run, adapter, tmp_path)


def _check_training(same_run, path, adapter, tmp_path):
    from benchmark.trl_run import TrlRun

    changes = ["grpo.max_steps=2", "grpo.prompts_per_step=2", "grpo.group_size=4", "grpo.learning_rate=0.05"]
    own = same_run.OmegaConf.merge(same_run.OWN, {"run": path, "every": 1, "users": 2})
    run = open_policy(path, "sft", training=True)
    cfg = same_run.settings_of(run, "trl", own, changes)
    trl = TrlRun(run, cfg, path, str(tmp_path), adapter=adapter, micro_batch=4)
    # Random answers are never valid; these rewards differ.
    trl.reward.judge = lambda text, question: {"reward": float(len(text) % 2)}
    sft = load_policy(cfg, RunFolder(path), ["sft"])
    scores, kls = [], []

    def rank(policy, answers, engine):
        tokens = policy.prompt_batch(["Red Lamp"])
        with torch.no_grad():
            kls[:] = trl.trainer._metrics["train"]["kl"]
            scores.append([one.model(tokens.ids).logits[0, -1] for one in (policy, sft)])

    trl.train(same_run.Tally(), rank)
    distances = [(trained - at_start).abs().max().item() for trained, at_start in scores]
    assert distances[0] < 1e-5
    assert distances[1] > 1e-3
    # Against any other reference than the SFT policy, the KL would not begin at 0.
    # Two micro-batches in each step.
    assert kls[:2] == pytest.approx([0, 0], abs=1e-6)
    assert min(kls[2:]) > 1e-6
    trains = {name for name, weight in trl.policy.model.named_parameters() if weight.requires_grad}
    assert trains
    assert all(".default." in name for name in trains)


def test_all_that_trl_cannot_do_is_said(same_run):
    from benchmark.trl_run import refuse_what_trl_lacks

    cfg = compose_checked("train", ["advantage=rloo", "grpo.kl=k1"], CONFIG_DIR).config
    with pytest.raises(UserError) as told:
        refuse_what_trl_lacks(cfg, HitFormat())
    assert "advantage: only mllmrec.rl.advantages.GroupRelative" in str(told.value)
    assert "grpo.kl: only k3" in str(told.value)
    assert "reward" not in str(told.value)
