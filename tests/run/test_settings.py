from __future__ import annotations

from importlib.util import find_spec

import pytest
from omegaconf import OmegaConf

from mllmrec.run.settings import MOVED, read_settings


def test_classes_are_named_where_they_are_today_and_all_else_stays(tmp_path):
    path = tmp_path / "resolved.yaml"
    path.write_text(
        "logger: {_target_: mllmrec.loggers.WandbLoggers, project: mllmrec.loggers.x}\n"
        "parts: [{_target_: mllmrec.loggers.RunLoggers}, {_target_: mine.loggers.Own}, '???']\n"
        "again: ${logger.project}\n"
    )
    assert OmegaConf.to_container(read_settings(path)) == {
        "logger": {"_target_": "mllmrec.run.loggers.WandbLoggers", "project": "mllmrec.loggers.x"},
        "parts": [{"_target_": "mllmrec.run.loggers.RunLoggers"}, {"_target_": "mine.loggers.Own"}, "???"],
        "again": "${logger.project}",
    }


@pytest.mark.parametrize(("before", "now"), MOVED.items())
def test_moved_modules_are_there(before, now):
    assert find_spec(now) is not None
    assert find_spec(before) is None
