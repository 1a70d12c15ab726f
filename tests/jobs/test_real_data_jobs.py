"""Whole jobs on small parts of the shared real data; skipped if it is missing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"
TINY = [
    "backbone.hidden_size=32",
    "backbone.num_layers=2",
    "backbone.vocabulary=1000",
    "warmup.max_steps=2",
    "eval.max_users=20",
]


def needs(folder: str) -> Path:
    path = SHARED / folder
    if not path.is_dir():
        pytest.skip(f"the shared data {folder} is not here")
    return path


def test_amazon_beauty_counts_the_whole_dataset_whatever_part_is_used(job, tmp_path):
    root = needs("amazon_beauty")
    folder = job(
        tmp_path / "run",
        "dataset=amazon_beauty",
        f"dataset.root={root}",
        "dataset.max_users=200",
        "mix_ratio=0.3",
        *TINY,
        small=False,
    )
    data = json.loads((folder / "data.json").read_text(encoding="utf-8"))
    assert data["whole"] == {"users": 22363, "items": 12101, "interactions": 198502}
    assert data["used"]["users"] == 200
    # no images, so the reasoning speaks of brands and categories
    assert data["cot"]["coverage"]["matched"] > 0


def test_movielens_posters_are_captioned_and_reach_the_prompts(job, tmp_path):
    root = needs("movielens_posters")
    folder = job(
        tmp_path / "run",
        "dataset=movielens",
        f"dataset.root={root}",
        "dataset.max_users=60",
        "dataset.filters.max_length=30",
        *TINY,
        small=False,
    )
    data = json.loads((folder / "data.json").read_text(encoding="utf-8"))
    assert data["whole"]["users"] == 610
    # There are 600 posters; only those of films that these 60 users rated are captioned.
    assert 100 < data["captions"]["captioned"] < 600
