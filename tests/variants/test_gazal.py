"""Gazal-R1: n-grams by hand, and the whole reward of a preset whose weights are ours."""

from __future__ import annotations

import pytest

from mllmrec.config import CONFIG_DIR, check_config
from mllmrec.config.compose import compose_checked
from mllmrec.testing import check_shaper, toy_batch
from mllmrec.variants.gazal import Repetition, repeated


def test_the_share_of_what_was_said_before():
    assert repeated("red lamp", 3) == 0
    # red lamp red, lamp red lamp, red lamp red, lamp red lamp: two of four.
    assert repeated("Red lamp red LAMP red lamp", 3) == 0.5
    assert repeated("red blue green", 1) == 0


def test_repetition_is_taken_away():
    batch = toy_batch(["a a a a", "a b c d"], rewards=[1.0, 0.0])
    # Of two bigrams of three, all the same.
    assert Repetition(0.3, words=2)(batch).total.tolist() == pytest.approx([0.8, 0.0])


def test_it_is_a_shaper():
    check_shaper(Repetition())
    with pytest.raises(ValueError, match="at least 0"):
        Repetition(penalty=-1.0)


def test_the_variant_composes():
    composed = compose_checked("train", ["variant=gazal_r1", "backbone=smollm2_135m"], CONFIG_DIR)
    assert composed.faults == []
    check_config(composed.config)
    assert composed.config.backbone.lora.use_dora
    assert composed.config.backbone.lora.use_rslora
    assert list(composed.config.shapers) == ["length", "repetition"]
    assert composed.config.shapers.length.limit == composed.config.rollout.max_reasoning_tokens
