"""A policy that reasons before it answers, from the command line to the tables."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from mllmrec.jobs.finished_run import open_run
from mllmrec.jobs.recommendation import rank_items, rank_together, wanted

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("reasoned") / "run"


@pytest.fixture
def finished(job, folder):
    if not folder.exists():
        job(
            folder,
            "task=reasoned",
            "logger=csv",
            "rollout.max_reasoning_tokens=66",
            "eval.max_reasoning_tokens=66",
            "eval.reasoning_samples=2",
        )
    return folder


def test_every_answer_counts_and_reasoning_is_measured(finished):
    with (finished / "log.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["stage"] == "grpo" and row["reward"]]
    # All ten answers after each of four pieces of reasoning are rows, and only candidates are named.
    assert all(0 <= float(row["rewards/hit/mean"]) <= 1 for row in rows)
    assert all(0 <= float(row["completions/clipped_ratio"]) <= 1 for row in rows)
    said = pq.read_table(finished / "rollouts.parquet").to_pylist()
    assert all(row["completion"].startswith("<think>\n") for row in said)
    metrics = json.loads((finished / "metrics.json").read_text())
    # Three steps of four prompts and four pieces of reasoning, each of 1 to 66 tokens: answers are not written.
    assert 3 * 4 * 4 <= metrics["cost"]["grpo"]["generated_tokens"] <= 3 * 4 * 4 * 66
    assert metrics["protocol"]["ranking"] == "reasoned"
    assert metrics["protocol"]["reasoning_samples"] == 2
    assert metrics["protocol"]["cot"] == "asked"
    assert list(metrics["faithfulness"]) == ["sft", "grpo"]
    for compared in metrics["faithfulness"].values():
        assert list(compared) == ["none", "swapped", "shuffled"]
        for one in compared.values():
            assert one["difference"]["NDCG@3"]["users"] > 1


def test_rankings_after_reasoning_are_shared_between_jobs(job, tmp_path):
    settings = ("task=reasoned", "share_stages=true", f"cache_dir={tmp_path / 'cache'}", "eval.max_users=12")
    first, second = (job(tmp_path / name, *settings) for name in ("first", "second"))
    found = [json.loads((folder / "metrics.json").read_text(encoding="utf-8")) for folder in (first, second)]
    assert found[0]["faithfulness"] == found[1]["faithfulness"]
    assert found[0]["stages"] == found[1]["stages"]
    tables = [pq.read_table(folder / "per_user.parquet") for folder in (first, second)]
    assert tables[0].to_pylist() == tables[1].to_pylist()
    log = (second / "run.log").read_text(encoding="utf-8")
    for name in ("zero_shot", "sft", "sft_reasoning_none", "sft_reasoning_shuffled"):
        assert f"{name}, uniform negatives: ranked before" in log
    # Reasoning that is left out is another ranking than the policy's own.
    ranked = {
        name: tables[1].filter(pc.equal(tables[1]["stage"], name)) for name in ("sft", "sft_reasoning_none")
    }
    texts = [table["text"].to_pylist() for table in ranked.values()]
    assert texts[0] != texts[1] == [""] * 12


def test_a_finished_run_is_evaluated_after_more_reasoning(finished, command, tmp_path):
    changed = ["eval.reasoning_samples=3", "eval.max_users=5", f"hydra.run.dir={tmp_path / 'again'}"]
    done = command("evaluate", f"run={finished}", *changed, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    metrics = json.loads((tmp_path / "again" / "metrics.json").read_text())
    assert metrics["protocol"]["reasoning_samples"] == 3
    assert list(metrics["faithfulness"]["grpo"]) == ["none", "swapped", "shuffled"]


def test_a_finished_run_reasons_when_it_recommends(finished):
    run = open_run(str(finished), None)
    ranked = rank_items(run, [0, 1, 2], set(), candidates=run.prepared.items.ids[:4].tolist())
    assert len(ranked) == 4
    asked = [wanted(run, [0, 1, 2], set(), candidates=[0, 1, 2, 3]), wanted(run, [5], {5}, shortlist=3)]
    for one, found in zip(asked, rank_together(run, asked), strict=True):
        # The same reasoning, however many others are asked for with it: eval.reasoning_samples=2 pieces.
        (alone,) = rank_together(run, [one])
        assert found.reasoning == alone.reasoning
        assert len(found.reasoning) == 2
        assert "</think>" not in "".join(found.reasoning)


def test_a_served_run_shows_the_reasoning_behind_its_ranking(finished, served):
    run = open_run(str(finished), None)
    ids = run.prepared.builder.ids
    client, asked = served(run), {"history": ids[:3], "candidates": ids[10:14]}
    explained = client.post("/explain", json=asked).json()
    (alone,) = rank_together(run, [wanted(run, [0, 1, 2], set(), candidates=range(10, 14))])
    assert explained["reasoning"] == list(alone.reasoning)
    assert [one["item"] for one in explained["ranking"]] == [ids[item] for item in alone.items]
    assert client.post("/rank", json=asked).json() == {"ranking": explained["ranking"]}
    assert client.get("/health").json()["reasons"]


def test_answers_that_are_enumerated_move_the_gradient_less(finished):
    script = Path(__file__).parents[2] / "experiments" / "gradient_variance.py"
    words = [sys.executable, str(script), f"run={finished}", "prompts=4", "group=4", "draws=8"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    drawn, exact = map(json.loads, done.stdout.splitlines())
    assert (drawn["answer"], exact["answer"]) == ("sampled", "enumerated")
    # Half of it or less: the answers of a policy that knows nothing are drawn among ten.
    assert exact["variance"] < 0.5 * drawn["variance"]


def test_the_chat_template_thinks_where_prompts_ask_for_it(job, tmp_path, adapters):
    half = (
        "caption=none",
        "method=sft",
        "sft.max_steps=1",
        "cot.placement=completion",
        "mix_ratio=0.5",
        "eval.cot=false",
    )
    folder = job(tmp_path / "run", *adapters, *half, small=False)
    prompts = re.findall(
        r"```text\n(<\|im_start\|>user\n.*?)\n```", (folder / "prompts.md").read_text(), re.DOTALL
    )
    asks = [" Think Next<|end|>" in prompt for prompt in prompts]
    assert {True, False} == set(asks)
    assert [prompt.endswith("<|im_start|>assistant") for prompt in prompts] == asks
    assert [prompt.endswith("<think>\n\n</think>") for prompt in prompts] == [not one for one in asks]
    run = open_run(str(folder), None)
    assert run.policy.render(" Think Next").endswith("<|im_start|>assistant\n")
