"""What rankings are called and what their scores become on the pages."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mllmrec.config.listed import listed
from mllmrec.errors import UserError
from mllmrec.exploring.pictures import SIZE, thumbnail
from mllmrec.exploring.server import names_of
from mllmrec.exploring.stages import measure_of, shown_values, stages_of
from mllmrec.exploring.training import chosen, timeline
from mllmrec.run.log_rows import write_log
from mllmrec.run.rollouts import Rollout, RolloutWriter


def test_log_probabilities_become_probabilities_among_the_items():
    assert shown_values(np.log([0.1, 0.3]), "probability") == pytest.approx([0.25, 0.75])
    assert shown_values([-1000.0, -1000.0], "probability") == [0.5, 0.5]
    assert shown_values([0.0, -np.inf], "probability") == [1.0, 0.0]
    assert shown_values([2.0, -np.inf], "score") == [2.0, None]


@pytest.mark.parametrize(
    ("protocol", "measure"),
    [
        ({"ranking": "likelihood"}, "probability"),
        ({"ranking": "reasoned"}, "probability"),
        ({"ranking": "likelihood", "calibrate": "history"}, "score"),
        ({"ranking": "pointwise"}, "score"),
        ({"ranking": "score"}, "score"),
    ],
)
def test_only_plain_log_probabilities_are_shown_as_probabilities(protocol, measure):
    assert measure_of(protocol) == measure


def test_stages_are_told_apart_by_what_they_rank_with():
    names = ["popularity", "zero_shot", "sft", "sft_reasoning_none", "sft_best", "grpo"]
    metrics = {"stages": {"zero_shot": {}, "sft": {}, "grpo": {}}, "protocol": {"ranking": "reasoned"}}
    found = {stage.name: stage for stage in stages_of(names, metrics)}
    assert [stage.kind for stage in found.values()] == [
        "baseline",
        "phase",
        "phase",
        "changed",
        "weights",
        "phase",
    ]
    assert [name for name, stage in found.items() if stage.saved] == ["sft", "grpo"]
    assert found["sft_reasoning_none"].title == "SFT without it"
    assert found["popularity"].measure == "score"


def test_a_timeline_has_rewards_by_step_and_finds_texts(tmp_path):
    with RolloutWriter(tmp_path / "rollouts.parquet") as writer:
        for step in (0, 5):
            writer.append([Rollout(step, "7:3", f"Red step {step}", 0.5, {"hit": 0.5}, -1.0)])
    write_log(
        tmp_path / "log.csv",
        [
            {"stage": "grpo", "step": 5, "reward": 0.25},
            {"stage": "grpo", "step": 4, "reward": 0.5},
            {"stage": "sft", "step": 0},
        ],
    )
    line = timeline(tmp_path)
    assert (line.steps, line.parts, line.logged) == ([0, 5], ["hit"], {"grpo": [(4, 0.5), (5, 0.25)]})
    assert [one.number for one in chosen(line, 5, "", 9)] == [1]
    assert [one.number for one in chosen(line, None, "RED", 1)] == [0]
    assert chosen(line, None, "blue", 9) == []
    assert timeline(tmp_path / "elsewhere").rollouts == []


def test_a_picture_is_drawn_anew_and_another_file_is_refused(tmp_path):
    Image.new("RGB", (400, 100), (200, 0, 0)).save(tmp_path / "wide.jpg")
    drawn = thumbnail(tmp_path / "wide.jpg")
    assert drawn.startswith(b"\x89PNG")
    (tmp_path / "drawn.png").write_bytes(drawn)
    with Image.open(tmp_path / "drawn.png") as image:
        assert image.size == (SIZE, SIZE // 4)
    (tmp_path / "page.png").write_text("<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>")
    with pytest.raises(UserError, match=r"page\.png cannot be shown"):
        thumbnail(tmp_path / "page.png")


def test_runs_are_named_by_what_differs():
    assert names_of([Path("/a/x/0"), Path("/a/y/0")]) == ["x/0", "y/0"]
    assert names_of([Path("/a/x/0")]) == ["0"]


def test_several_folders_are_typed_with_commas(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert listed(["run=a,b/c", "port=1"], "run") == ["run=['a','b/c']", "port=1"]
    assert listed(["runs=a,b"], "run") == ["runs=a,b"]
