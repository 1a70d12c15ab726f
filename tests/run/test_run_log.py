from __future__ import annotations

import logging
import warnings
from pathlib import Path

import pytest

from mllmrec.run.log import RunLog

log = logging.getLogger("mllmrec")


def lines(path) -> list[str]:
    return [line.partition("mllmrec: ")[2] for line in path.read_text(encoding="utf-8").splitlines()]


def test_the_run_log_holds_the_log_and_no_secret(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef")
    run_log = RunLog(tmp_path / "run.log")
    with run_log.collecting():
        run_log.open()
        log.info("logged in with %s", "0123456789abcdef")
    log.warning("after the run")
    assert (tmp_path / "run.log").read_text().endswith("INFO mllmrec: logged in with <WANDB_API_KEY>\n")


def test_a_log_replaces_an_earlier_one_when_it_is_opened_and_misses_nothing(tmp_path) -> None:
    path = tmp_path / "run.log"
    path.write_text("mllmrec: earlier\n", encoding="utf-8")
    run_log = RunLog(path)
    with run_log.collecting():
        log.info("first")
        log.warning("second")
        assert lines(path) == ["earlier"]
        run_log.open()
        assert lines(path) == ["first", "second"]
        log.info("third")
        assert lines(path) == ["first", "second", "third"]
        run_log.open()
    assert lines(path) == ["first", "second", "third"]


def test_a_log_that_is_never_opened_leaves_the_earlier_one(tmp_path) -> None:
    path = tmp_path / "run.log"
    path.write_text("mllmrec: earlier\n", encoding="utf-8")
    with RunLog(path).collecting():
        log.error("refused")
    assert lines(path) == ["earlier"]


def test_what_a_library_will_change_is_kept_off_the_screen_and_in_the_log(tmp_path) -> None:
    shown: list[str] = []
    screen = logging.StreamHandler()
    screen.emit = lambda record: shown.append(record.getMessage())
    logging.getLogger().addHandler(screen)
    run_log = RunLog(tmp_path / "run.log")
    try:
        with run_log.collecting(), warnings.catch_warnings():
            warnings.simplefilter("always")
            run_log.open()
            warnings.warn("renamed in v6", FutureWarning, stacklevel=1)
            warnings.warn("rates are odd", UserWarning, stacklevel=1)
    finally:
        logging.getLogger().removeHandler(screen)
    assert ["rates are odd" in line for line in shown] == [True]
    assert "renamed in v6" in (tmp_path / "run.log").read_text()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full as on Linux")
def test_a_full_disk_ends_the_log_and_neither_the_job_nor_in_tracebacks(tmp_path, capsys, caplog) -> None:
    (tmp_path / "run.log").symlink_to("/dev/full")
    run_log = RunLog(tmp_path / "run.log")
    with run_log.collecting():
        run_log.open()
        log.info("first")
        log.info("second")
    assert capsys.readouterr().err == ""
    (told,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert told == f"{tmp_path / 'run.log'} is incomplete: No space left on device"
