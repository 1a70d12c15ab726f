"""The controls beside a run's phases: baselines, other negatives, the weights that were not kept, SFT continued."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from mllmrec.evaluation.metrics import mean_metrics, per_user_metrics
from mllmrec.jobs.results_tables import untrained_lines

BOTH = "eval.weighting=both"  # as by default; the other tests of jobs save the time


def metrics_of(folder):
    return json.loads((folder / "metrics.json").read_text(encoding="utf-8"))


def ranks_of(folder, stage):
    rows = pq.read_table(folder / "per_user.parquet").to_pylist()
    return {(row["user_id"], row["target_id"]): row["rank"] for row in rows if row["stage"] == stage}


@pytest.fixture(scope="module")
def folder_of_run(tmp_path_factory):
    return tmp_path_factory.mktemp("controls") / "run"


@pytest.fixture
def run(job, folder_of_run):
    if not folder_of_run.exists():
        job(folder_of_run, "method=sft_more", "heldout.every=1", "logger=csv", BOTH)
    return folder_of_run


def test_every_run_ranks_what_only_counts_on_its_own_candidates(run, job, tmp_path):
    beside = metrics_of(run)["baselines"]
    assert list(beside) == ["popularity", "item_knn"]
    for name, known in beside.items():
        # A separate run of the same recommender; its table does not show the recommender twice.
        alone = metrics_of(job(tmp_path / name, f"method={name}"))
        assert alone["stages"][name] == known["metrics"]
        assert alone["intervals"][name] == known["intervals"]
        assert name not in alone["baselines"]


def test_both_kinds_of_negatives_are_ranked_in_one_run(run):
    main, other = metrics_of(run), metrics_of(run / "other_negatives")
    assert (main["protocol"]["negatives"], other["protocol"]["negatives"]) == ("uniform", "popularity")
    assert main["protocol"]["candidates_hash"] != other["protocol"]["candidates_hash"]
    assert list(main["stages"]) == list(other["stages"]) == ["zero_shot", "warmup", "sft", "sft_more"]
    assert list(other["baselines"]) == ["popularity", "item_knn"]
    assert ranks_of(run, "sft").keys() == ranks_of(run / "other_negatives", "sft").keys()
    data = json.loads((run / "data.json").read_text(encoding="utf-8"))
    assert data["candidates"]["beside"] == {"popularity": {"test": other["protocol"]["candidates_hash"]}}


def test_the_kind_of_negatives_that_training_lists_is_the_main_one(job, tmp_path):
    folder = job(tmp_path / "run", "method=popularity", "candidates.weighting=popularity", BOTH)
    assert metrics_of(folder)["protocol"]["negatives"] == "popularity"
    assert metrics_of(folder / "other_negatives")["protocol"]["negatives"] == "uniform"
    alone = job(tmp_path / "alone", "method=popularity")
    assert metrics_of(alone)["stages"] == metrics_of(folder / "other_negatives")["stages"]
    assert not (alone / "other_negatives").exists()


def test_best_and_last_weights_are_reported_apart_for_every_stage(run):
    metrics = metrics_of(run)
    assert list(metrics["weights"]) == ["sft", "sft_more"]
    for stage, compared in metrics["weights"].items():
        assert compared["kept"] == "best"
        # The table's row shows the weights that were kept.
        assert compared["best"]["metrics"] == metrics["stages"][stage]
        if "difference" not in compared:
            assert compared["best"] == compared["last"]
            continue
        ranks = np.array(list(ranks_of(run, f"{stage}_last").values()), dtype=float)
        means = mean_metrics(per_user_metrics(ranks, [1, 3, 5, 10]))
        assert compared["last"]["metrics"] == pytest.approx(means, abs=1e-6)
        gain = compared["best"]["metrics"]["NDCG@3"] - compared["last"]["metrics"]["NDCG@3"]
        assert compared["difference"]["NDCG@3"]["mean"] == pytest.approx(gain, abs=2e-6)
    # Four optimiser steps of SFT and three of SFT continued.
    assert [compared["last"]["step"] for compared in metrics["weights"].values()] == [4, 3]


def test_keeping_the_last_weights_reports_the_same_two_numbers(run, job, tmp_path):
    chosen = metrics_of(run)["weights"]["sft"]
    last = metrics_of(job(tmp_path / "last", "method=sft", "heldout.every=1", "heldout.keep=last"))
    found = last["weights"]["sft"]
    assert found["kept"] == "last"
    assert found["last"]["metrics"] == last["stages"]["sft"]
    assert (found["best"], found["last"]) == (chosen["best"], chosen["last"])


def test_shared_sft_hands_over_the_weights_that_it_did_not_keep(job, tmp_path):
    own = (f"cache_dir={tmp_path / 'cache'}", "share_stages=true", "method=sft", "heldout.every=1")
    first, second = (metrics_of(job(tmp_path / name, *own)) for name in ("first", "second"))
    assert first["weights"] == second["weights"]


def test_a_stage_that_kept_the_weights_it_began_with_is_named():
    compared = {"kept": "best", "best": {"step": 0}, "last": {"step": 9}}
    (line,) = untrained_lines({"weights": {"grpo": compared, "sft": {**compared, "best": {"step": 3}}}})
    assert line.startswith("GRPO: no ranking of held-out users was better")
    assert untrained_lines({"weights": {"grpo": {**compared, "kept": "last"}}}) == []


def test_sft_continued_reads_the_prompts_of_grpo_in_its_order(job, tmp_path, monkeypatch):
    """The control differs from GRPO only in its loss: prompts, negatives, order and number of steps are the same."""
    from mllmrec.phases.grpo import Grpo
    from mllmrec.phases.sft import SftMore

    seen = {}

    def recording(kind):
        step = kind.training_step

        def training_step(self, batch, batch_idx):
            seen.setdefault(self.name, []).append([example.prompt for example in batch])
            return step(self, batch, batch_idx)

        monkeypatch.setattr(kind, "training_step", training_step)

    recording(Grpo)
    recording(SftMore)
    for method in ("mllmrec_r1", "sft_more"):
        job(tmp_path / method, f"method={method}", "sft.max_steps=1")
    assert len(seen["grpo"]) == 3
    assert seen["sft_more"] == seen["grpo"]
