from __future__ import annotations

import logging

import pytest

from mllmrec.errors import UserError
from mllmrec.run.attempt import Attempt
from mllmrec.run.folder import RunFolder
from mllmrec.run.input_files import InputFiles


@pytest.fixture
def attempt(tmp_path):
    (tmp_path / "data.csv").write_text("user,item\n")

    def make(**settings) -> Attempt:
        whole = {
            "seed": 0,
            "dataset": {"root": str(tmp_path / "data.csv")},
            "sft": {"max_steps": 5},
            **settings,
        }
        files = InputFiles(whole, written=[tmp_path / "run"])
        return Attempt(RunFolder(tmp_path / "run"), whole, files, files.record())

    return make


def test_only_an_unfinished_attempt_at_the_same_job_goes_on(attempt, tmp_path):
    assert not attempt().goes_on(overwrite=False)
    attempt().begin()
    assert attempt().goes_on(overwrite=False)
    RunFolder(tmp_path / "run").finish("config", 0.5)
    assert not attempt().goes_on(overwrite=False)


def test_changed_settings_are_named(attempt, caplog):
    attempt().begin()
    changed = attempt(seed=1, sft={"max_steps": 6, "epochs": 2})
    told = r"seed 0 -> 1; sft.max_steps 5 -> 6; sft.epochs unset -> 2\): restore them to go on, or start anew with resume=never"
    with pytest.raises(UserError, match=told):
        changed.goes_on(overwrite=False)
    with caplog.at_level(logging.WARNING):
        assert not changed.goes_on(overwrite=True)
    assert "starts anew" in caplog.text


def test_a_run_that_goes_on_with_other_code_says_so(attempt, monkeypatch, caplog):
    attempt().begin()
    with caplog.at_level(logging.WARNING):
        assert attempt().goes_on(overwrite=False)
        assert not caplog.records
        monkeypatch.setattr("mllmrec.run.attempt._code", lambda: "another version")
        assert attempt().goes_on(overwrite=False)
    assert "its phases come from two versions" in caplog.text


def test_an_edited_input_file_counts_as_a_change(attempt, tmp_path):
    attempt().begin()
    (tmp_path / "data.csv").write_text("user,item\n1,2\n")
    with pytest.raises(UserError, match=r"the file of dataset\.root was edited"):
        attempt().goes_on(overwrite=False)
