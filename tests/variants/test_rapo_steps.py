"""RAPO's reward of steps: the printed cases, the steps of a text, and how it joins the variant."""

from __future__ import annotations

import shlex
from dataclasses import replace

import pytest
import torch

from mllmrec.config import CONFIG_DIR, check_config
from mllmrec.config.compose import compose_checked
from mllmrec.rl.batch import Question
from mllmrec.testing import check_shaper, toy_batch
from mllmrec.variants.rapo_steps import StepReward, Trace

WEIGHTS = {"hit": 1.0, "format": 0.1}
USED = (
    "variant=rapo task=reasoned rollout=rapo_buffer rollout@rollout.inner=reasoned rollout.inner.answer=sampled "
    "+shapers.steps._target_=mllmrec.variants.rapo_steps.StepReward '+shapers.steps.weights={hit:1.0,format:0.1}'"
)


def test_a_right_and_a_wrong_answer():
    part, valid = StepReward(WEIGHTS), WEIGHTS["format"]
    # Wrong, valid, 4 searches and 8 queries: 0.1 + 0.2 * 4/8 + 0.2 * 8/16. Right with x = 0.6: 0.1 + 0.5.
    assert valid + part.earned(Trace(12, 0, 4, 8), right=False) == pytest.approx(0.3)
    assert valid + part.earned(Trace(10, 6, 2, 2), right=True) == pytest.approx(0.6)
    assert part.earned(Trace(10, 1, 5, 4), right=True) == pytest.approx(0.9)
    assert part.earned(Trace(0, 0, 0, 0), right=True) == 1.0
    # More than enough is worth as much as enough.
    assert part.earned(Trace(90, 0, 30, 60), right=False) == pytest.approx(0.4)


def test_sentences_are_steps():
    question = Question("1", {"1": "Red Lamp", "2": "Blue Lamp"})
    text = "Likes red. Is it [ITEM_1]? Blue Lamp costs 3.50; likes  RED. Is it [ITEM_1]?"
    assert Trace.of(text, question) == Trace(calls=5, redundant=2, searches=1, queries=2)
    assert Trace.of(text, question).redundancy == 0.4
    assert Trace.of("", question).redundancy == 0.0


def test_rows_earn_by_what_they_say_before_the_answer():
    said = "<think>\nred\nred\n[ITEM_2]\n</think>\n"
    batch = toy_batch([f"{said}[ITEM_1]", f"{said}[ITEM_2]", said], rewards=[0.0] * 3)
    batch = replace(
        batch, parts={"hit": torch.tensor([1.0, 0.0, 0.0]), "format": torch.tensor([1.0, 1.0, 0.0])}
    )
    given = StepReward(WEIGHTS, searches=2, queries=2)(batch)
    # One of three steps repeats; one of two searches and one of two queries.
    assert given.total.tolist() == pytest.approx([0.1 + 2 / 3, 0.1 + 0.2, 0.2])
    assert given.parts["redundancy"].tolist() == pytest.approx([1 / 3] * 3)


def test_it_is_a_shaper_and_says_what_is_wrong():
    check_shaper(StepReward(WEIGHTS))
    with pytest.raises(ValueError, match="hit: 1, format"):
        StepReward({"hit": 1.0})
    with pytest.raises(ValueError, match="searches=0"):
        StepReward(WEIGHTS, searches=0)


def test_the_command_in_the_preset_is_understood():
    assert USED in " ".join(
        line.lstrip("# ") for line in (CONFIG_DIR / "variant" / "rapo.yaml").read_text().splitlines()
    )
    composed = compose_checked("train", shlex.split(USED), CONFIG_DIR)
    assert composed.faults == []
    check_config(composed.config)
