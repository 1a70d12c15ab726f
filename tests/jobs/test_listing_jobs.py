"""A finished run ranked among more and fewer candidates than its training prompts list, by the real commands."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from omegaconf import OmegaConf

from mllmrec.evaluation.protocol import Protocol
from mllmrec.finished_run import open_run
from mllmrec.recommendation import history_of, rank_items

COMMAND = [sys.executable, "-m"]
ONE = ["eval.weighting=uniform", "eval.max_users=12"]


def command(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *words], capture_output=True, text=True, timeout=600)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Path, str]:
    """The folder and the output of a run whose training prompts list ten candidates."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    small = [
        "dataset.num_users=60",
        "dataset.num_items=150",
        "backbone.hidden_size=32",
        "backbone.num_layers=2",
        "backbone.max_length=400",
    ]
    done = command(
        "mllmrec.train",
        "debug=fast",
        *small,
        *ONE,
        f"cache_dir={folder.parent / 'cache'}",
        f"hydra.run.dir={folder}",
    )
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


@pytest.fixture
def evaluate(finished, tmp_path):
    """``evaluate(*settings)``: protocol, rankings by user, and warnings."""

    def run(*settings: str) -> tuple[dict, dict[str, list[str]], str]:
        folder = tmp_path / f"again{len(list(tmp_path.iterdir()))}"
        done = command("mllmrec.evaluate", f"run={finished[0]}", f"hydra.run.dir={folder}", *settings)
        assert done.returncode == 0, done.stderr
        metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        said = [line for line in done.stdout.splitlines() if "WARNING" in line]
        return metrics["protocol"], rankings(folder, "grpo"), "\n".join(said)

    return run


def rankings(folder: Path, stage: str) -> dict[str, list[str]]:
    rows = pq.read_table(folder / "per_user.parquet").to_pylist()
    return {row["user_id"]: row["ranking"] for row in rows if row["stage"] == stage}


def test_more_candidates_than_in_training_are_ranked_in_lists_of_its_length(evaluate):
    protocol, ranked, said = evaluate("eval.num_negatives=24")
    assert (protocol["num_candidates"], protocol["listing"]) == (25, "groups of 10")
    assert {len(set(items)) for items in ranked.values()} == {25}
    assert said == ""


def test_a_length_that_training_never_saw_is_warned_of_with_both_numbers(evaluate):
    protocol, ranked, said = evaluate("eval.num_negatives=24", "eval.listing=all")
    assert "listing" not in protocol
    assert said.startswith(
        "WARNING: eval.num_negatives=24: prompts list 25 candidates, those of training 10: the policy may rank far worse"
    )
    # 25 candidates are three lists of ten, each candidate in two.
    assert "eval.listing=groups ranks them in lists of 10, in 6 prompts a user" in said
    assert {len(items) for items in ranked.values()} == {25}


def test_prompts_without_a_list_are_named_and_warned_of(evaluate):
    protocol, _, said = evaluate("eval.num_negatives=24", "eval.listing=none")
    assert protocol["listing"] == "none"
    assert "eval.listing=none: prompts list no candidates, those of training 10" in said


@pytest.mark.parametrize("listing", ["auto", "groups"])
def test_as_many_candidates_as_in_training_are_ranked_as_they_were(finished, evaluate, listing):
    protocol, ranked, said = evaluate(f"eval.listing={listing}")
    before = json.loads((finished[0] / "metrics.json").read_text(encoding="utf-8"))["protocol"]
    assert protocol == before
    assert "listing" not in before
    assert ranked == rankings(finished[0], "grpo")
    assert said == ""


def test_the_whole_catalogue_is_not_listed_and_that_is_said(evaluate):
    protocol, _, said = evaluate("eval.num_negatives=full")
    assert (protocol["negatives"], "listing" in protocol) == ("whole catalogue", False)
    assert "eval.num_negatives=full: prompts list no candidates, those of training 10" in said
    protocol, ranked, said = evaluate("eval.num_negatives=full", "eval.listing=groups", "eval.keep_top=150")
    assert protocol["listing"] == "groups of 10"
    assert min(map(len, ranked.values())) > 100
    assert said == ""


def test_a_list_that_the_backbone_cannot_hold_is_refused(finished, tmp_path):
    words = [f"run={finished[0]}", f"hydra.run.dir={tmp_path / 'again'}", "eval.num_negatives=130"]
    done = command("mllmrec.evaluate", *words, "eval.listing=all")
    assert done.returncode == 2, done.stderr
    assert "longer than the backbone holds" in done.stderr
    assert "set eval.listing=auto" in done.stderr


def test_the_closing_box_proposes_what_the_run_can_do(finished):
    # 150 items leave every user 99 to be ranked among; there are fewer than 1,000 users.
    words = " ".join(finished[1].split())
    assert "eval.num_negatives=99 │" in words
    assert "eval.max_users" not in words.split("Where to look next")[1]


@pytest.mark.parametrize(("negatives", "lists"), [(24, 6), (4, 1)])
def test_lists_do_not_depend_on_which_candidate_is_the_target(finished, negatives, lists):
    run = open_run(str(finished[0]), None)
    settings = OmegaConf.merge(run.cfg.eval, {"num_negatives": negatives, "ks": [1]})
    examples = Protocol(settings, run.cfg.protocol_seed, run.prepared).examples
    before = [examples[index] for index in range(20)]
    candidates_of = examples.candidates_of
    examples.candidates_of = lambda index: (candidates_of(index)[0], 0)
    seen = set()
    for index, example in enumerate(before):
        moved = examples[index]
        assert moved.prompts == example.prompts
        assert len(example.prompts) == lists
        listed = np.concatenate([one.items for one in example.lists])
        assert set(example.candidates.tolist()) <= set(listed.tolist())
        assert {len(set(one.items.tolist())) for one in example.lists} == {10}
        # What fills up a list is nothing that the user ever had.
        history = set(example.history.tolist())
        assert not history & set(listed.tolist())
        seen |= set(listed.tolist())
    assert len(seen) > 50


def test_a_shortlist_is_ranked_in_lists_of_the_length_of_training(finished, monkeypatch):
    run = open_run(str(finished[0]), None)
    history, excluded, _ = history_of(run.prepared, str(run.prepared.interactions.user_ids[3]), None)
    lengths: list[int | None] = []
    prompt = run.prepared.builder.prompt

    def noted(shown, listed, *rest, **named):
        lengths.append(None if listed is None else len(listed))
        return prompt(shown, listed, *rest, **named)

    monkeypatch.setattr(run.prepared.builder, "prompt", noted)
    ranked = rank_items(run, history, excluded, shortlist=20)
    assert len(ranked) == 20
    # The catalogue without a list, then twice two lists of ten.
    assert [length for length in lengths if length is not None] == [10, 10, 10, 10]
    lengths.clear()
    assert (
        len(
            rank_items(
                run, history, excluded, candidates=[run.prepared.builder.ids[0], run.prepared.builder.ids[1]]
            )
        )
        == 2
    )
    assert [length for length in lengths if length is not None] == [10]
