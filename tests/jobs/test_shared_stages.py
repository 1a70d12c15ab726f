from __future__ import annotations

import csv
import json
import logging
import multiprocessing
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from filelock import FileLock
from safetensors.torch import load_file

from mllmrec.baselines.weights_file import read_weights
from mllmrec.run.folder import RunFolder

SHARING = ("share_stages=true",)


@pytest.fixture
def own_cache(tmp_path: Path) -> str:
    return f"cache_dir={tmp_path / 'cache'}"


def metrics_of(folder: Path) -> dict:
    return json.loads((folder / "metrics.json").read_text(encoding="utf-8"))


def stored(tmp_path: Path) -> set[Path]:
    return set((tmp_path / "cache" / "stages").glob("*/weights.safetensors"))


def log_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "log.csv").open(encoding="utf-8") as stream:
        return [{**row, "seconds": ""} for row in csv.DictReader(stream)]


def test_a_shared_stage_gives_the_run_that_training_it_gives(job, tmp_path, own_cache):
    alone = job(tmp_path / "alone", own_cache)
    first = job(tmp_path / "first", own_cache, *SHARING)
    trained = stored(tmp_path)
    assert len(trained) == 2  # after warm-up, after SFT
    times = {path: path.stat().st_mtime_ns for path in trained}
    second = job(tmp_path / "second", own_cache, *SHARING)
    assert {path: path.stat().st_mtime_ns for path in stored(tmp_path)} == times
    found = [metrics_of(folder) for folder in (alone, first, second)]
    costs = [metrics.pop("cost") for metrics in found]
    assert found[0] == found[1] == found[2]
    # The phase's cost is known although this job did not train it.
    assert costs[2]["sft"] == costs[1]["sft"]
    assert log_of(alone) == log_of(first) == log_of(second)


def rankings(folder: Path) -> list[dict]:
    return pq.read_table(folder / "per_user.parquet").to_pylist()


def ranked_by_another(folder: Path) -> list[str]:
    lines = (folder / "run.log").read_text(encoding="utf-8").splitlines()
    return [
        line.split(": ")[1].split(",")[0] for line in lines if "ranked before, by the same weights" in line
    ]


def test_equal_weights_are_ranked_once(job, tmp_path, own_cache, caplog):
    settings = (own_cache, "method=sft")
    alone = job(tmp_path / "alone", *settings)
    job(tmp_path / "first", *settings, *SHARING)
    kept = sorted((tmp_path / "cache" / "rankings").glob("*.parquet"))
    second = job(tmp_path / "second", *settings, *SHARING)
    everything = {"zero_shot", "warmup", "sft"}
    assert sorted((tmp_path / "cache" / "rankings").glob("*.parquet")) == kept
    assert set(ranked_by_another(second)) >= everything
    assert rankings(alone) == rankings(second)
    # Other weights after SFT, and other candidates.
    changed = ("heldout.keep=last", "sft.learning_rate=0.05")
    after = ranked_by_another(job(tmp_path / "b", *settings, *SHARING, *changed))
    assert "warmup" in after
    assert "sft" not in after
    other = job(tmp_path / "c", *settings, *SHARING, "eval.num_negatives=11")
    assert everything.isdisjoint(ranked_by_another(other))
    # A damaged file is named, and the users are ranked again.
    for path in kept:
        path.write_bytes(path.read_bytes()[:-40])
    with caplog.at_level(logging.WARNING):
        again = job(tmp_path / "again", *settings, *SHARING)
    assert "a ranking that an earlier job kept is damaged" in caplog.text
    assert rankings(again) == rankings(alone)
    assert everything.isdisjoint(ranked_by_another(again))


def test_lists_of_other_lengths_are_ranked_anew(job, tmp_path, own_cache, adapters):
    # The weights and the candidates to rank are the same; training prompts, and so lists, have 4 candidates or 6.
    settings = (
        *adapters,
        own_cache,
        *SHARING,
        "method=sft",
        "sft.max_steps=1",
        "prompt.max_caption_words=1",
        "prompt.history_length=2",
    )
    lists = ("eval.num_negatives=11", "eval.listing=trained")
    first = job(tmp_path / "first", *settings, *lists, "candidates.num_negatives=3", small=False)
    second = job(tmp_path / "second", *settings, *lists, "candidates.num_negatives=5", small=False)
    assert "zero_shot" not in ranked_by_another(second)
    assert metrics_of(first)["stages"]["zero_shot"] != metrics_of(second)["stages"]["zero_shot"]


def test_jobs_share_what_is_the_same_and_no_more(job, tmp_path, own_cache):
    job(tmp_path / "a", own_cache, *SHARING)
    assert len(stored(tmp_path)) == 2
    job(tmp_path / "b", own_cache, *SHARING, "grpo.beta=0.5", "eval.max_users=20")
    assert len(stored(tmp_path)) == 2
    job(tmp_path / "c", own_cache, *SHARING, "method=sft")
    assert len(stored(tmp_path)) == 2
    # A job with another SFT learning rate or other negatives in SFT's prompts shares the warm-up; another seed does not.
    job(tmp_path / "d", own_cache, *SHARING, "method=sft", "sft.learning_rate=1e-3")
    assert len(stored(tmp_path)) == 3
    job(tmp_path / "e", own_cache, *SHARING, "method=sft", "candidates.weighting=popularity")
    assert len(stored(tmp_path)) == 4
    job(tmp_path / "f", own_cache, *SHARING, "method=sft", "seed=1")
    assert len(stored(tmp_path)) == 6
    # A narrower model begins with other weights.
    job(tmp_path / "g", own_cache, *SHARING, "method=sft", "backbone.hidden_size=16")
    assert len(stored(tmp_path)) == 8
    # SFT would end with other weights. Its best and its last weights are both stored, but no job reads both.
    job(tmp_path / "b2", own_cache, *SHARING, "method=sft", "heldout.keep=last")
    assert len(stored(tmp_path)) == 9
    # The curve of held-out users would belong to another protocol.
    job(tmp_path / "h", own_cache, *SHARING, "method=sft", "eval.num_negatives=11")
    assert len(stored(tmp_path)) == 10


def test_an_adapter_is_shared_too(job, tmp_path, own_cache, adapters):
    settings = (*adapters, own_cache, *SHARING)
    first = job(tmp_path / "first", *settings, small=False)
    (weights,) = stored(tmp_path)
    # Only the adapter: the base model existed before.
    assert all(".lora_" in name for name in load_file(weights))
    second = job(tmp_path / "second", *settings, small=False)
    found = [metrics_of(folder) for folder in (first, second)]
    for metrics in found:
        metrics.pop("cost")
    assert found[0] == found[1]


def test_a_job_waits_for_another_that_trains_the_same(job, tmp_path, own_cache, caplog):
    first = job(tmp_path / "first", own_cache, *SHARING, "method=sft")
    (warm,) = (
        path
        for path in (tmp_path / "cache" / "stages").glob("*.lock")
        if "sft" not in json.loads((Path(str(path)[:-5]) / "cost.json").read_text())
    )
    context = multiprocessing.get_context("spawn")
    orders, answers = context.Queue(), context.Queue()
    other = context.Process(target=_hold, args=(str(warm), orders, answers))
    other.start()
    assert answers.get(timeout=60) == "held"
    orders.put(2.0)  # released after two seconds
    with caplog.at_level(logging.WARNING):
        second = job(tmp_path / "second", own_cache, *SHARING, "method=sft")
    other.join(timeout=60)
    assert "waiting for another job" in caplog.text
    assert metrics_of(second)["stages"] == metrics_of(first)["stages"]


def _hold(path: str, orders, answers) -> None:
    import time

    with FileLock(path):
        answers.put("held")
        time.sleep(orders.get())


def test_a_finished_job_is_left_alone_and_any_other_is_run(job, tmp_path):
    folder = job(tmp_path / "run", "method=sft")
    before = (folder / "metrics.json").stat().st_mtime_ns
    job(folder, "method=sft", "skip_finished=true")
    assert (folder / "metrics.json").stat().st_mtime_ns == before
    # Other settings make another job; another name does not.
    job(folder, "method=sft", "skip_finished=true", "run_name=other")
    assert (folder / "metrics.json").stat().st_mtime_ns == before
    other = ("method=sft", "overwrite=true", "sft.learning_rate=1e-3")
    job(folder, *other, "skip_finished=true")
    again = (folder / "metrics.json").stat().st_mtime_ns
    assert again != before
    job(folder, *other)
    assert (folder / "metrics.json").stat().st_mtime_ns != again


def test_a_job_whose_files_were_edited_since_is_not_finished(job, tmp_path, caplog):
    ratings, items = tmp_path / "ratings.csv", tmp_path / "items.csv"
    rows = [f"{user},{(user + place) % 12},{place}" for user in range(20) for place in range(5)]
    ratings.write_text("\n".join(["user_id,item_id,timestamp", *rows]))
    items.write_text("\n".join(["item_id,title", *(f"{item},Title {item}" for item in range(12))]))
    given = ("dataset=tabular", f"dataset.interactions={ratings}", f"dataset.items={items}", "caption=none")
    plain = ("method=popularity", "cot_policy=none", "eval.num_negatives=3", "eval.ks=[1,3]")

    def run_again() -> bool:
        before = metrics.stat().st_mtime_ns if metrics.exists() else None
        job(tmp_path / "run", *given, *plain, "skip_finished=true", "overwrite=true", small=False)
        return metrics.stat().st_mtime_ns != before

    metrics, finished = tmp_path / "run" / "metrics.json", tmp_path / "run" / "finished.json"
    assert run_again()
    assert not run_again()
    items.write_text(items.read_text().replace("Title 7", "Tattle 7"))
    assert run_again()
    assert "run again, since dataset.items was edited after it" in caplog.text
    assert not run_again()
    # A run of an earlier version kept no record.
    content = json.loads(finished.read_text())
    del content["files"]
    finished.write_text(json.dumps(content))
    ratings.write_text(ratings.read_text().replace("0,1,1", "0,9,1", 1))
    assert not run_again()


def test_a_failed_job_says_why_and_is_not_finished(job, tmp_path):
    folder = tmp_path / "run"
    with pytest.raises(Exception, match="diverged"):
        job(folder, "method=sft", "sft.learning_rate=1e30", "sft.max_grad_norm=1e30")
    assert "diverged" in json.loads((folder / "failed.json").read_text())["error"]
    assert not RunFolder(folder).finished_path.exists()
    job(folder, "method=sft", "skip_finished=true")
    assert RunFolder(folder).finished_path.exists()
    assert not RunFolder(folder).failed_path.exists()


def test_a_recommender_is_trained_once_for_its_own_job_and_for_item_vectors(job, tmp_path, own_cache):
    size = ("max_epochs=3", "hidden_size=8")
    sasrec = (own_cache, "method=sasrec", *(f"method.recommender.{setting}" for setting in size))
    llara = (
        own_cache,
        "method=llara",
        "mix_ratio=0",
        *(f"method.item_vectors.{setting}" for setting in size),
    )
    alone = [metrics_of(job(tmp_path / "sasrec", *sasrec)), metrics_of(job(tmp_path / "llara", *llara))]
    folders = [job(tmp_path / "first", *sasrec, *SHARING), job(tmp_path / "second", *llara, *SHARING)]
    (kept,) = (tmp_path / "cache" / "recommenders").glob("*/")
    found = [metrics_of(folder) for folder in folders]
    costs = [metrics.pop("cost") for metrics in found]
    assert found == [{name: part for name, part in metrics.items() if name != "cost"} for metrics in alone]
    assert costs[1]["item_vectors"] == costs[0]["sasrec"]
    for folder, name, unshared in ((folders[0], "sasrec", "sasrec"), (folders[1], "item_vectors", "llara")):
        assert [row for row in log_of(folder) if row["stage"] == name]
        assert log_of(folder) == log_of(tmp_path / unshared)
    # The shared recommender ranks as before, and the run saves it like a newly trained one.
    again = job(tmp_path / "third", *sasrec, *SHARING)
    assert {**metrics_of(again), "cost": None} == {**found[0], "cost": None}
    weights = [read_weights(folder, "sasrec", 40) for folder in (kept, again / "model")]
    assert all(np.array_equal(part, weights[1][name]) for name, part in weights[0].items())
    # Other users would stop it elsewhere, and other settings make other weights.
    job(tmp_path / "users", *sasrec, *SHARING, "heldout.users=11")
    job(tmp_path / "dropout", *sasrec, *SHARING, "method.recommender.dropout=0.1")
    assert len(list((tmp_path / "cache" / "recommenders").glob("*/"))) == 3
