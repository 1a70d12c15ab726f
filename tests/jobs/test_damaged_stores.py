"""Damaged weights of an earlier job are named and trained again; the run ends as if they had never existed."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def metrics_of(folder: Path) -> dict:
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    del metrics["cost"]
    return metrics


@pytest.fixture(scope="module")
def kept(tmp_path_factory) -> Path:
    """A cache that the first test fills."""
    return tmp_path_factory.mktemp("kept")


@pytest.mark.parametrize("name", ["weights.safetensors", "other.safetensors", "cost.json"])
def test_a_damaged_stage_is_named_and_trained_again(job, tmp_path, kept, caplog, name):
    settings = (f"cache_dir={kept}", "share_stages=true", "method=sft", "sft.max_steps=2", "mix_ratio=0")
    whole = job(tmp_path / "whole", *settings)
    places = {path: path.stat().st_mtime_ns for path in (kept / "stages").glob("*/weights.safetensors")}
    (place,) = (
        path.parent
        for path in places
        if list(json.loads((path.parent / "cost.json").read_text())) == ["warmup", "sft"]
    )
    cut_short(place / name)
    with caplog.at_level(logging.WARNING, logger="mllmrec"):
        again = job(tmp_path / "again", *settings)
    named = [record.getMessage() for record in caplog.records if str(place) in record.getMessage()]
    assert len(named) == 1
    assert named[0].startswith(f"sft: what an earlier job kept in {place} is damaged (")
    assert "\n" not in named[0]
    assert metrics_of(again) == metrics_of(whole)
    # The phase is stored again, complete, and the warm-up before it has not changed.
    now = {path: path.stat().st_mtime_ns for path in (kept / "stages").glob("*/weights.safetensors")}
    assert {path for path in places if now[path] != places[path]} == {place / "weights.safetensors"}
    caplog.clear()
    job(tmp_path / "third", *settings)
    assert str(place) not in caplog.text


def test_a_damaged_recommender_is_named_and_trained_again(job, tmp_path, kept, caplog):
    settings = (
        f"cache_dir={kept}",
        "share_stages=true",
        "method=sasrec",
        "method.recommender.max_epochs=2",
        "method.recommender.hidden_size=8",
    )
    whole = job(tmp_path / "whole", *settings)
    (place,) = (kept / "recommenders").glob("*/")
    cut_short(place / "recommender.safetensors")
    with caplog.at_level(logging.WARNING, logger="mllmrec"):
        again = job(tmp_path / "again", *settings)
    assert f"sasrec: what an earlier job kept in {place} is damaged (recommender.safetensors" in caplog.text
    assert metrics_of(again) == metrics_of(whole)
