from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from mllmrec import cache
from mllmrec.cache import (
    GrowingFile,
    atomic_folder,
    atomic_path,
    content_fingerprint,
    file_fingerprint,
    files_fingerprint,
    fingerprint,
    remove_abandoned,
    temporary_beside,
    write_json,
)
from mllmrec.errors import UserError


def write_half(path):
    with atomic_path(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError("cut")


def test_a_file_is_whole_or_absent(tmp_path):
    path = tmp_path / "new" / "file.txt"
    with pytest.raises(RuntimeError, match="cut"):
        write_half(path)
    assert list(path.parent.iterdir()) == []
    with atomic_path(path) as temporary:
        temporary.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]


def test_an_earlier_file_survives_a_failure(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("earlier")
    with pytest.raises(RuntimeError, match="cut"):
        write_half(path)
    assert path.read_text() == "earlier"
    assert list(tmp_path.iterdir()) == [path]


def recorded(monkeypatch):
    """The order of operations on the disk: (fsync, name) and (replace, name)."""
    events = []
    sync, replace = os.fsync, os.replace

    def fsync(descriptor):
        events.append(("fsync", Path(os.readlink(f"/proc/self/fd/{descriptor}")).name))
        sync(descriptor)

    def rename(source, target):
        events.append(("replace", Path(target).name))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", rename)
    return events


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="descriptors have no names here")
def test_content_is_on_the_disk_before_the_name_and_the_name_after(tmp_path, monkeypatch):
    # Otherwise a power cut leaves an empty file under the final name.
    events = recorded(monkeypatch)
    with atomic_path(tmp_path / "file.txt") as temporary:
        temporary.write_text("whole")
    assert events == [
        ("fsync", temporary.name),
        ("replace", "file.txt"),
        ("fsync", tmp_path.name),
    ]
    events.clear()
    with atomic_path(tmp_path / "other.txt", durable=False) as temporary:
        temporary.write_text("whole")
    assert events == [("replace", "other.txt")]


def test_json_is_readable_and_refuses_nan(tmp_path):
    path = tmp_path / "file.json"
    write_json(path, {"title": "Amélie", "rank": None})
    assert json.loads(path.read_text(encoding="utf-8")) == {"title": "Amélie", "rank": None}
    assert "Amélie" in path.read_text(encoding="utf-8")
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"rank": float("nan")})
    assert json.loads(path.read_text(encoding="utf-8"))["title"] == "Amélie"


def test_fingerprint_depends_on_content_not_on_order():
    key = {"dataset": "x", "filters": {"k": 5, "min": 1}, "ks": [1, 3]}
    assert fingerprint(key) == fingerprint({"ks": [1, 3], "filters": {"min": 1, "k": 5}, "dataset": "x"})
    others = [{**key, "dataset": "y"}, {**key, "ks": [3, 1]}, {**key, "extra": None}, {}]
    assert len({fingerprint(key), *map(fingerprint, others)}) == 5
    assert len(fingerprint(key)) == 16


def test_a_large_file_edited_in_place_has_another_fingerprint(tmp_path):
    # 60 MB with the same size and time of change: only the content can tell them apart.
    path = tmp_path / "ratings.csv"
    with path.open("wb") as stream:
        stream.truncate(60 * 2**20)
    before, times = file_fingerprint(path), (path.stat().st_atime_ns, path.stat().st_mtime_ns)
    with path.open("r+b") as stream:
        stream.seek(40 * 2**20)
        stream.write(b"1")
    os.utime(path, ns=times)
    assert file_fingerprint(path) != before


def test_file_fingerprint_reads_every_block(tmp_path):
    path = tmp_path / "file"
    prints = set()
    for end in (b"a", b"b", b""):
        path.write_bytes(b"x" * (1 << 20) + end)
        prints.add(file_fingerprint(path))
    assert len(prints) == 3
    path.write_bytes(b"x" * (1 << 20) + b"a")
    assert file_fingerprint(path) in prints


def test_a_growing_file_begins_with_what_made_it(tmp_path):
    path = tmp_path / "new" / "file.jsonl"
    assert list(GrowingFile(path, {"model": "m"}).records()) == []
    assert not path.exists()
    GrowingFile(path, {"model": "m"}).append({"key": "é", "n": 1})
    GrowingFile(path, {"model": "m"}).append({"key": "b"})
    assert path.read_text("utf-8") == '{"identity": {"model": "m"}}\n{"key": "é", "n": 1}\n{"key": "b"}\n'
    assert list(GrowingFile(path, {}).records()) == [{"key": "é", "n": 1}, {"key": "b"}]


@pytest.mark.parametrize("left", [b'{"key": "c", "te', b'{"key": "\xc3', b'"a text"', b"12"])
def test_a_torn_line_costs_itself_alone(tmp_path, left):
    path = tmp_path / "file.jsonl"
    GrowingFile(path, {}).append({"key": "a"})
    with path.open("ab") as stream:
        stream.write(left)
    again = GrowingFile(path, {})
    assert list(again.records()) == [{"key": "a"}]
    again.append({"key": "b"})
    again.append({"key": "c"})
    assert list(GrowingFile(path, {}).records()) == [{"key": "a"}, {"key": "b"}, {"key": "c"}]


def test_a_growing_file_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match=r"folder: cannot be read \(Is a directory\)"):
        list(GrowingFile(tmp_path / "folder", {}).records())


@pytest.fixture
def killed(tmp_path):
    """The file and the folder that a process left behind when it was killed while writing."""
    code = (
        "import os, sys, time; from pathlib import Path; from mllmrec.cache import atomic_path, temporary_beside\n"
        "folder = temporary_beside(Path(sys.argv[1]) / 'weights'); folder.mkdir(); (folder / 'x').write_text('half')\n"
        "with atomic_path(Path(sys.argv[1]) / 'deep' / 'file.json') as temporary:\n"
        "    temporary.write_text('half'); print('written', flush=True); time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"written\n"
    left = {path for path in tmp_path.rglob("*") if path.name.endswith(".part")}
    assert {path.name.split(".")[1] for path in left} == {"weights", "file"}
    # Nobody removes a file that is still being written.
    assert remove_abandoned(tmp_path) == []
    process.kill()
    process.wait()
    return left


def test_what_a_killed_process_was_writing_is_removed(tmp_path, killed):
    own = temporary_beside(tmp_path / "own")
    kept = [
        own,  # of this process
        tmp_path / ".file.json.1@another-machine.part",
        tmp_path / "download.zip.part",  # is continued
        tmp_path / ".notes.part",
        tmp_path / "file.json",
    ]
    for path in kept:
        path.write_text("x")
    assert set(remove_abandoned(tmp_path)) == killed
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == sorted(kept)
    assert (tmp_path / "deep").is_dir()


def test_a_folder_that_is_not_there_holds_nothing_abandoned(tmp_path):
    assert remove_abandoned(tmp_path / "nowhere") == []


def test_files_are_known_by_their_names_and_contents(tmp_path):
    one, two = tmp_path / "one.txt", tmp_path / "two.txt"
    one.write_text("a")
    two.write_text("b")
    first = files_fingerprint({"x": one, "y": two})
    assert files_fingerprint({"y": two, "x": one}) == first
    assert files_fingerprint({"x": two, "y": one}) != first
    assert files_fingerprint({"x": one, "z": two}) != first
    two.write_text("c")
    assert files_fingerprint({"x": one, "y": two}) != first


def test_a_folder_is_known_by_what_lies_below_it_and_not_by_its_place(tmp_path):
    for folder in ("here", "there"):
        (tmp_path / folder / "deep").mkdir(parents=True)
        (tmp_path / folder / "deep" / "file").write_text("a")
    first = content_fingerprint(tmp_path / "here")
    assert content_fingerprint(tmp_path / "there") == first
    (tmp_path / "there" / "deep" / "file").rename(tmp_path / "there" / "file")
    assert content_fingerprint(tmp_path / "there") != first
    assert content_fingerprint(tmp_path / "there" / "file") == file_fingerprint(tmp_path / "there" / "file")


def test_a_folder_is_whole_or_absent_and_an_older_one_stays_until_then(tmp_path):
    path = tmp_path / "model"
    with atomic_folder(path) as folder:
        (folder / "a").write_text("1")
        assert not path.exists()
    for failing in (True, False):
        with suppress(ZeroDivisionError), atomic_folder(path) as folder:
            (folder / "b").write_text("2")
            assert [file.name for file in path.iterdir()] == ["a"]
            _ = 1 / (not failing)
        assert [file.name for file in path.iterdir()] == (["a"] if failing else ["b"])
        assert [*tmp_path.iterdir()] == [path]


def test_a_package_that_is_installed_meanwhile_changes_no_key(monkeypatch):
    monkeypatch.setattr(cache, "version", lambda package: "1.0")
    assert cache.library_version("installed-meanwhile") == "1.0"
    monkeypatch.setattr(cache, "version", lambda package: "2.0")
    assert cache.library_version("installed-meanwhile") == "1.0"
