"""Large data that was prepared once is read again as it was, and never instead of other data."""

from __future__ import annotations

import dataclasses
import logging

import numpy as np
import pytest
from omegaconf import OmegaConf

from mllmrec.data.filters import FilteredInteractions
from mllmrec.data.tabular import Tabular
from mllmrec.samples import filtered as module
from mllmrec.samples.filtered import filtered


@pytest.fixture
def dataset(tmp_path, monkeypatch):
    """Prepares a table of 40 rows in the folder, with settings of one's own; ``calls`` counts real preparations."""
    monkeypatch.setattr(module, "MANY", 20)
    draw = np.random.default_rng(0)
    rows = [f"u{draw.integers(6)},{draw.integers(12)},{time}" for time in range(40)]
    (tmp_path / "ratings.csv").write_text("\n".join(["user_id,item_id,timestamp", *rows]) + "\n")
    titles = [f"{item},{'long ' * 500 if item == 3 else 'Thing'}" for item in range(12)]
    (tmp_path / "items.csv").write_text("\n".join(["item_id,title", *titles]) + "\n")
    real, calls = module.build_interactions, []
    monkeypatch.setattr(module, "build_interactions", lambda *a, **k: calls.append(1) or real(*a, **k))

    def prepare(max_users=None, protocol_seed=0, **filters):
        files = {
            name: str(tmp_path / f"{file}.csv")
            for name, file in (("interactions", "ratings"), ("items", "items"))
        }
        settings = {**files, "max_users": max_users, "filters": {"max_length": 5, **filters}}
        cfg = {"dataset": settings, "protocol_seed": protocol_seed, "cache_dir": str(tmp_path / "cache")}
        return filtered(OmegaConf.create(cfg), Tabular(**files))

    prepare.calls = calls
    return prepare


def content(found):
    parts = {
        field.name: getattr(found.interactions, field.name)
        for field in dataclasses.fields(FilteredInteractions)
    }
    parts |= {name: getattr(found.items, name) for name in ("ids", "titles", "details", "kept")}
    plain = {name: None if part is None else (part.dtype.kind, part.tolist()) for name, part in parts.items()}
    return plain, found.name, found.skipped, found.funnel


@pytest.mark.parametrize("max_users", [None, 5])
def test_a_second_preparation_reads_the_first_with_its_warnings(dataset, caplog, max_users):
    first = dataset(max_users)
    assert len(first.interactions.hidden_items) > 0  # what max_length took
    assert "are cut to 2000 characters" in caplog.text
    caplog.clear()
    again = dataset(max_users)
    assert content(again) == content(first)
    assert len(dataset.calls) == 1
    assert isinstance(again.interactions.items.base, np.memmap)
    assert "are cut to 2000 characters" in caplog.text


def test_other_content_settings_and_seeds_are_prepared_anew(dataset, tmp_path):
    first = dataset()
    others = [{"k_core": 2}, {"protocol_seed": 1}, {"max_users": 5}]
    for number, other in enumerate(others, start=2):
        dataset(**other)
        assert len(dataset.calls) == number
    table = tmp_path / "ratings.csv"
    table.write_text(table.read_text() + "u1,11,99\n")
    assert dataset().funnel.whole["interactions"] == first.funnel.whole["interactions"] + 1
    assert len(dataset.calls) == 5
    (tmp_path / "items.csv").rename(tmp_path / "items_.csv")
    (tmp_path / "items_.csv").rename(tmp_path / "items.csv")
    dataset()
    assert len(dataset.calls) == 5  # the same content


def test_a_damaged_set_is_prepared_again(dataset, tmp_path, caplog):
    first = dataset()
    (place,) = (tmp_path / "cache" / "interactions").iterdir()
    (place / "items.npy").write_bytes(b"nothing")
    with caplog.at_level(logging.WARNING):
        assert content(dataset()) == content(first)
    assert "the data is prepared again" in caplog.text
    assert content(dataset()) == content(first)
    assert len(dataset.calls) == 2


def test_little_data_is_not_kept(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MANY", 41)
    dataset()
    dataset()
    assert len(dataset.calls) == 2
    assert not (tmp_path / "cache").exists()
