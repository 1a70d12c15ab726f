"""A finished run is ranked by drawn answers, and a run ranks so itself, through the real command."""

from __future__ import annotations

import json

import pyarrow.parquet as pq
import pytest

SHOWN = ("eval.max_users=12", "eval.weighting=uniform")


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("reasoned") / "run"


@pytest.fixture
def reasoned(job, run_folder):
    """A run that reasons, and ranks by the votes of two answers."""
    if not run_folder.exists():
        job(
            run_folder,
            "task=reasoned",
            "method=sft",
            "inference=majority",
            "inference.n=2",
            "eval.max_users=12",
            "eval.max_reasoning_tokens=66",
            "heldout.users=0",
        )
    return run_folder


def protocol_of(folder):
    return json.loads((folder / "metrics.json").read_text())["protocol"]


def test_a_run_may_rank_by_votes_and_says_so(reasoned):
    words = "Majority(n=2, temperature=1.0, ties=mean_logprob, tokens=answer, rest=greedy)"
    assert protocol_of(reasoned)["inference"] == words
    metrics = json.loads((reasoned / "metrics.json").read_text())
    assert set(metrics["stages"]) == {"zero_shot", "warmup", "sft"}
    assert metrics["faithfulness"] == {}  # which is of the reasoning that scores all candidates


def test_a_finished_run_is_ranked_by_another_way(reasoned, command, tmp_path):
    found = {}
    for name, *settings in (
        ("same",),
        ("greedy",),
        ("best_of_n", "inference.n=3", "inference.rest=unranked"),
    ):
        asked = [] if name == "same" else [f"inference={name}"]
        folder = tmp_path / name
        arguments = [f"run={reasoned}", *SHOWN, "eval.faithfulness=false", *asked, *settings]
        done = command("evaluate", *arguments, f"hydra.run.dir={folder}", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert "generated tokens for 12 rankings" in done.stdout
        rows = [
            row for row in pq.read_table(folder / "per_user.parquet").to_pylist() if row["stage"] == "sft"
        ]
        cost = json.loads((folder / "metrics.json").read_text())["cost"]["sft"]
        found[name] = rows, cost["generated_tokens"], protocol_of(folder).get("inference", "")
    kept = [row for row in pq.read_table(reasoned / "per_user.parquet").to_pylist() if row["stage"] == "sft"]
    assert [row["ranking"] for row in found["same"][0]] == [row["ranking"] for row in kept]
    assert found["greedy"][2] == ""
    assert found["best_of_n"][2].startswith("BestOfN(n=3, ")
    assert all(len(row["ranking"]) == 10 for name in ("same", "greedy") for row in found[name][0])
    assert all(1 <= len(row["ranking"]) <= 3 for row in found["best_of_n"][0])
    # At most 66 tokens of reasoning in each answer; votes of two answers and the greedy rest.
    most = {"same": 2 + 1, "greedy": 1, "best_of_n": 3}
    assert all(12 * times <= found[name][1] <= 12 * 66 * times for name, times in most.items())
    assert all("<think>" in row["text"] for row in found["best_of_n"][0])


@pytest.mark.parametrize(
    "asked",
    [
        ("inference=select_best", "inference.n=3", "inference.patience=1"),
        ("inference=repexp_coreset", "inference.n=4", "inference.k=2"),
        ("inference=repexp_coreset", "inference.n=4", "inference.k=2", "inference.vectors=items"),
    ],
)
def test_ways_of_published_systems_rank_all_candidates(reasoned, command, tmp_path, asked):
    arguments = [f"run={reasoned}", *SHOWN, *asked, f"hydra.run.dir={tmp_path / 'ranked'}"]
    done = command("evaluate", *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = pq.read_table(tmp_path / "ranked" / "per_user.parquet").to_pylist()
    assert all(len(set(row["ranking"])) == 10 for row in rows if row["stage"] == "sft")


def test_a_run_of_lists_is_ranked_by_a_search(job, command, tmp_path):
    folder = tmp_path / "lists"
    job(folder, "task=ranked_list", "method=sft", "eval.max_users=12", "heldout.users=0")
    asked = ["inference=value_search", "inference.iterations=6", "inference.value_prompts=8", "stage=sft"]
    ranked = tmp_path / "ranked"
    done = command("evaluate", f"run={folder}", *SHOWN, *asked, f"hydra.run.dir={ranked}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert protocol_of(ranked)["inference"].startswith("ValueSearch(iterations=6, ")
    rows = pq.read_table(ranked / "per_user.parquet").to_pylist()
    assert all(len(set(row["ranking"])) == 5 for row in rows if row["stage"] == "sft")
    cost = json.loads((ranked / "metrics.json").read_text())["cost"]["sft"]
    # Eight lists of five items for each of eight prompts, at least two tokens an item, before the search draws any.
    assert cost["generated_tokens"] > 8 * 8 * 5 * 2


def test_the_cost_is_that_of_both_kinds_of_negatives(reasoned, command, tmp_path):
    asked = ["eval.ranking=likelihood", "eval.cot=false", "eval.max_users=12", "eval.weighting=both"]
    drawn = ["inference=best_of_n", "inference.n=3", "inference.rest=unranked"]
    done = command("evaluate", f"run={reasoned}", *asked, *drawn, "hydra.run.dir=ranked", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    cost = json.loads((tmp_path / "ranked" / "metrics.json").read_text())["cost"]["sft"]
    # Three answers of two tokens, a label and the end, to each of twelve users among each of two kinds of negatives.
    assert (cost["rankings"], cost["generated_tokens"]) == (12 * 2, 12 * 2 * 3 * 2)
    assert "cost: " in done.stdout


def test_a_way_that_cannot_work_is_refused_before_the_run_is_opened(reasoned, command, tmp_path, monkeypatch):
    def opened(*_):
        raise AssertionError("the run was opened")

    monkeypatch.setattr("mllmrec.jobs.finished_run.open_run", opened)
    folder = tmp_path / "refused"
    arguments = [f"run={reasoned}", "inference=majority", "eval.num_negatives=20", f"hydra.run.dir={folder}"]
    done = command("evaluate", *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert "set eval.listing=all or none, or eval.num_negatives=9" in done.stderr
