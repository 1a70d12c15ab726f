from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch

from mllmrec.run.environment import (
    checkout_state,
    command_line,
    environment,
    environment_differences,
    read_environment,
)
from mllmrec.run.folder import RunFolder

UNKNOWN = {"commit": None, "changed": None}


def git(folder: Path, *arguments: str) -> str:
    names = {
        "GIT_AUTHOR_NAME": "a",
        "GIT_AUTHOR_EMAIL": "a@b",
        "GIT_COMMITTER_NAME": "a",
        "GIT_COMMITTER_EMAIL": "a@b",
    }
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments],
        env={**os.environ, **names},
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()


def test_it_says_what_runs_here_without_names_or_folders() -> None:
    found = environment()
    assert json.loads(json.dumps(found)) == found
    # The local part, such as +cu130, may be left out.
    assert torch.__version__.startswith(found["versions"]["torch"])
    assert found["threads"] == torch.get_num_threads()
    assert found["hardware"]["cores"] >= 1
    assert found["hardware"]["memory_gb"] > 0
    assert len(found["hardware"]["gpus"]) == torch.cuda.device_count()
    text = json.dumps({name: value for name, value in found.items() if name != "command"})
    assert str(Path.home()) not in text
    assert os.uname().nodename not in text


def test_secrets_of_the_command_line_are_blanked_out(monkeypatch) -> None:
    monkeypatch.setenv("SOME_API_KEY", "sk-0123456789")
    typed = [
        "/home/someone/bin/mllmrec-train",
        "seed=3",
        "draft.api_key=abc",
        "+a={password:abc}",
        "--token",
        "abc",
        "out=x-sk-0123456789",
        "sk-0123456789",
        "grpo.max_new_tokens=8",
    ]
    assert command_line(typed) == [
        "mllmrec-train",
        "seed=3",
        "draft.api_key=<redacted>",
        "+a=<redacted>",
        "--token",
        "<redacted>",
        "out=<redacted>",
        "<SOME_API_KEY>",
        "grpo.max_new_tokens=8",
    ]


def test_the_commit_is_that_of_a_checkout_that_holds_the_package(tmp_path) -> None:
    package = tmp_path / "mllmrec"
    package.mkdir()
    (package / "__init__.py").touch()
    assert checkout_state(package) == UNKNOWN  # no repository
    git(tmp_path, "init", "-q")
    assert (
        checkout_state(package) == UNKNOWN
    )  # somebody's repository, which ignores or does not track the package
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "one")
    commit = git(tmp_path, "rev-parse", "HEAD")
    (tmp_path / "notes.txt").touch()  # no code
    assert checkout_state(package) == {"commit": commit, "changed": False}
    (package / "new.py").touch()
    assert checkout_state(package) == {"commit": commit, "changed": True}


@pytest.mark.parametrize("content", [None, "{", "[]"])
def test_a_missing_or_damaged_file_is_no_environment(tmp_path, content) -> None:
    path = tmp_path / "environment.json"
    if content is not None:
        path.write_text(content)
    assert read_environment(path) is None


def test_differences_name_what_differs_but_not_the_command() -> None:
    one = {"command": ["a"], "versions": {"torch": "1", "numpy": "2"}, "threads": 1}
    two = {"command": ["b"], "versions": {"torch": "3", "numpy": "2"}, "threads": 2}
    assert environment_differences(one, two) == [("versions.torch", "1", "3"), ("threads", "1", "2")]
    assert environment_differences(None, two) == []


def test_a_new_run_does_not_keep_the_environment_of_an_earlier_one(tmp_path) -> None:
    run = RunFolder(tmp_path)
    run.environment_path.write_text("{}")
    run.start_afresh()
    assert not run.environment_path.exists()
