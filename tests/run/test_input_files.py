from __future__ import annotations

import os
from pathlib import Path

import pytest

from mllmrec.run import input_files
from mllmrec.run.input_files import InputFiles


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a table, an image folder, and a folder that jobs write to."""
    monkeypatch.chdir(tmp_path)
    for name in ("ratings.csv", "data/a.jpg", "data/b.jpg", "data/.cache/x", "data/runs/1/log", "test/x"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return tmp_path


SETTINGS = {
    "dataset": {
        "interactions": "ratings.csv",
        "root": "data",
        "cache_dir": "data/runs",
        "details": ["title"],
    },
    # Words that are also folders here, a class, a sign, and a text too long for a path.
    "eval": {"split": "test", "_target_": "mllmrec.data.Tabular", "separator": ".", "note": "a." * 5000},
}


def named(data: Path) -> InputFiles:
    return InputFiles(SETTINGS, written=[data / "data" / "runs"])


def test_what_settings_name_is_found_and_what_only_looks_like_it_is_not(data):
    assert sorted(named(data).record()) == ["dataset.interactions", "dataset.root"]


def test_edited_content_is_seen_and_what_jobs_write_is_not(data):
    record = named(data).record()
    for unread in ("data/.cache/x", "data/runs/1/log", "data/runs/2"):
        (data / unread).write_text("changed")
    assert named(data).edited(record) == []
    (data / "data" / "b.jpg").write_text("DATA/b.jpg")  # as long as before
    assert named(data).edited(record) == ["dataset.root"]
    (data / "data" / "b.jpg").write_text("data/b.jpg")
    assert named(data).edited(record) == []
    (data / "data" / "b.jpg").rename(data / "data" / "c.jpg")
    (data / "ratings.csv").write_text("ratings.csv and more")
    assert named(data).edited(record) == ["dataset.interactions", "dataset.root"]


def test_what_is_gone_and_what_was_never_recorded_is_not_edited(data):
    record = named(data).record()
    (data / "ratings.csv").unlink()
    assert named(data).edited(record) == []
    assert named(data).edited({}) == []


def test_content_is_read_again_only_where_a_name_a_size_or_a_time_changed(data, monkeypatch):
    record = named(data).record()
    read: list[str] = []
    hashed = input_files.files_fingerprint
    monkeypatch.setattr(input_files, "files_fingerprint", lambda files: read.extend(files) or hashed(files))
    assert named(data).edited(record) == []
    assert read == []
    os.utime(data / "data" / "a.jpg", (1, 1))
    assert named(data).edited(record) == []
    assert sorted(read) == ["a.jpg", "b.jpg"]
