"""Full disks, and files in place of folders: real ones, /dev/full and a limit on the size of files."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from mllmrec.cache import GrowingFile, atomic_path
from mllmrec.errors import UserError
from mllmrec.errors.disk import disk_fault, user_error_behind
from mllmrec.run.rollouts import Rollout, RolloutWriter
from mllmrec.store.plain import write_plain

FULL = Path("/dev/full")
pytestmark = pytest.mark.skipif(not FULL.exists(), reason="/dev/full as on Linux")

JOB = """
import resource
from pathlib import Path
from mllmrec.cache import write_json
from mllmrec.cli import run_app

def work(cfg):
    numbers = Path("numbers.json")
    write_json(numbers, [1])
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
    write_json(numbers, list(range(cfg.seed)))
    print("written")

if __name__ == "__main__":
    run_app(work, "train")
"""


def run(folder: Path, command: list[str], **settings) -> subprocess.CompletedProcess[str]:
    settings = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **settings}
    return subprocess.run([sys.executable, *command], cwd=folder, text=True, check=False, **settings)


@pytest.fixture
def job(tmp_path: Path) -> list[str]:
    (tmp_path / "job.py").write_text(JOB)
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "small.yaml").write_text("seed: 1\nhydra: {run: {dir: out}}\n")
    return ["job.py", "--config-path", str(tmp_path / "conf"), "--config-name", "small"]


def test_a_file_that_finds_no_room_ends_in_one_line_and_what_was_there_stays(tmp_path, job):
    # 2,000 lines with a number each are more than 4,096 bytes.
    ended = run(tmp_path, [*job, "seed=2000"])
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == (
        "mllmrec.train: error: numbers.json: no file may become so large here: raise the limit (ulimit -f), then start "
        "the command again; what is on disk is whole\n"
    )
    assert json.loads((tmp_path / "numbers.json").read_text()) == [1]
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".part")] == []


def test_output_that_finds_no_room_ends_in_one_line(tmp_path, job):
    with FULL.open("w") as full:
        ended = run(tmp_path, [*job, "seed=3"], stdout=full, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1)
    assert "the output of the command, or a file: the disk is full: free some space" in ended.stderr


@pytest.mark.parametrize("command", ["recommend", "report"])
def test_a_file_where_a_folder_should_be_is_named(tmp_path, command):
    (tmp_path / "notes").write_text("mine")
    given = {"recommend": ["run=r", "user=1"], "report": ["runs=r"]}[command]
    ended = run(tmp_path, ["-m", f"mllmrec.{command}", *given, "hydra.run.dir=notes/run"])
    assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (2, "", 1)
    assert ended.stderr.startswith(f"mllmrec.{command}: error: notes is a file, and a folder is needed there")


def refused(number: int, *paths: str) -> str:
    error = OSError(number, os.strerror(number), *paths)
    return str(disk_fault(error))


def test_disk_errors_become_messages_and_defects_do_not(tmp_path):
    assert refused(errno.EROFS, "cache/captions").startswith(
        "cache/captions: the file system is read-only: choose"
    )
    assert refused(errno.EDQUOT, "run/log.csv").startswith("run/log.csv: your quota of disk space is used up")
    assert refused(errno.EACCES, "run").startswith("run cannot be opened, permission denied: grant it")
    assert refused(errno.EISDIR, str(tmp_path)).startswith(f"{tmp_path} is a folder, and a file is needed")
    assert refused(errno.ENOSPC).startswith("the output of the command, or a file: the disk is full")
    # Without a path, about a folder that may well exist, or unrelated to the disk: these are defects of the package.
    assert refused(errno.EACCES) == refused(errno.ENOENT, "run") == "None"
    assert refused(errno.EEXIST, str(tmp_path)) == "None"
    assert disk_fault(ValueError("28")) is None


def test_the_outermost_user_error_is_the_one_shown():
    full = OSError(errno.ENOSPC, "No space left on device", "captions.jsonl")
    wrapped = RuntimeError("in a constructor")
    wrapped.__cause__ = full
    assert str(user_error_behind(wrapped)).startswith("captions.jsonl: the disk is full")
    told = UserError("captions: repair them")
    told.__cause__ = full
    assert user_error_behind(told) is told


def write_tensors(path: Path) -> None:
    with atomic_path(path) as temporary:
        temporary.symlink_to(FULL)
        # A library that reports the error only in words.
        raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")


def write_text(path: Path) -> None:
    with atomic_path(path) as temporary:
        temporary.symlink_to(FULL)
        temporary.write_text("text")


def write_state(path: Path) -> None:
    with atomic_path(path) as temporary:
        temporary.symlink_to(FULL)
        write_plain({"weights": torch.zeros(9)}, temporary)


def append_record(path: Path) -> None:
    path.symlink_to(FULL)
    GrowingFile(path, {"model": "a"}).append({"caption": "red"})


def write_rollouts(path: Path) -> None:
    def refuse(self, table) -> None:
        raise OSError(errno.ENOSPC, "Error writing bytes to file")

    with pytest.MonkeyPatch.context() as patch, RolloutWriter(path) as writer:
        patch.setattr(pq.ParquetWriter, "write_table", refuse)
        writer.append([Rollout(0, "p", "x", 0.0, {}, 0.0)])


@pytest.mark.parametrize("write", [write_tensors, write_text, write_state, append_record, write_rollouts])
def test_every_writer_names_the_file_that_found_no_room(tmp_path, write):
    path = tmp_path / "file"
    with pytest.raises(OSError, match=r"No space left on device|Error writing") as caught:
        write(path)
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(path))
    assert [left.name for left in tmp_path.iterdir() if left.name != "file"] == []
