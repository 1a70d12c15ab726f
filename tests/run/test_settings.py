from __future__ import annotations

from importlib.util import find_spec

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from mllmrec.errors import UserError
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


@pytest.mark.parametrize(
    ("before", "now"),
    [
        (
            "{encoder: null, revision: null, text_size: 8}",
            {"_target_": "mllmrec.text_encoders.tfidf.Tfidf", "size": 8},
        ),
        (
            "{encoder: some/name, revision: v2, text_size: 8}",
            {
                "_target_": "mllmrec.text_encoders.sentence.SentenceEncoder",
                "path": "some/name",
                "revision": "v2",
            },
        ),
    ],
)
def test_a_recommender_that_encoded_texts_itself_has_an_encoder_today(tmp_path, before, now):
    path = tmp_path / "resolved.yaml"
    target = "mllmrec.baselines.sasrec_text.SasRecText"
    path.write_text(f"recommender: {before.replace('{', f'{{_target_: {target}, dropout: 0.1, ')}\n")
    found = OmegaConf.to_container(read_settings(path))["recommender"]
    assert found == {"_target_": target, "dropout": 0.1, "encoder": now}
    assert instantiate(found).encoder.__class__.__name__ in now["_target_"]


@pytest.mark.parametrize(("before", "now"), MOVED.items())
def test_moved_modules_are_there(before, now):
    assert find_spec(now) is not None
    assert find_spec(before) is None


def test_settings_that_stand_for_more_than_memory_holds_are_refused(tmp_path):
    lines = ["a0: &a0 [x,x,x,x,x,x,x,x,x]"]
    lines += [f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 3)]
    (tmp_path / "resolved.yaml").write_text("\n".join(lines))
    with pytest.raises(UserError, match=r"resolved\.yaml cannot be read \(line 2 refers to .* by \*a0\)"):
        read_settings(tmp_path / "resolved.yaml")
