"""The results of a run say what the reasoner was told, however its texts come into the run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from mllmrec.config import CONFIG_DIR, check_config
from mllmrec.evaluation.protocol import Protocol
from mllmrec.samples.prepare import prepare


def leak_of(cache: Path, *overrides: str) -> str | None:
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        cfg = compose(
            "train",
            [
                *("dataset.num_users=20", "dataset.num_items=40", f"cache_dir={cache}", "mix_ratio=0"),
                *("eval.weighting=uniform", *overrides),
            ],
        )
    check_config(cfg)
    return Protocol(cfg.eval, 0, prepare(cfg)).describe().get("leak")


@pytest.mark.parametrize("leak", ["none", "target", None])
def test_the_mark_of_a_file_is_in_the_protocol(tmp_path, leak):
    record = {"user_id": "u", "history_items": ["1"], "target_item": "2", "reasoning": "text"}
    path = tmp_path / "cot.json"
    path.write_text(json.dumps([record if leak is None else {**record, "leak": leak}]))
    told = leak or "unknown"
    assert leak_of(tmp_path, "cot_policy=precomputed", f"cot_policy.path={path}") == told
    assert leak_of(tmp_path, "cot_policy=pseudo", "draft=precomputed", f"draft.path={path}") == told
    assert leak_of(tmp_path, "cot_policy=confident", "refine=precomputed", f"refine.path={path}") == told


def test_the_mark_of_what_is_written_here_is_in_the_protocol(tmp_path):
    assert leak_of(tmp_path, "cot_policy=leaky") == "target"
    assert leak_of(tmp_path, "cot_policy=template") == "none"
    assert leak_of(tmp_path, "cot_policy=none") is None
