"""Shapers of length: the printed cases, and a run that has two of them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from mllmrec.config import CONFIG_DIR, check_config
from mllmrec.config.checks import plain_faults
from mllmrec.config.compose import compose_checked
from mllmrec.engine.batches import pad
from mllmrec.testing import check_shaper, toy_batch
from mllmrec.variants.lengths import Cosine, Overlong, ShortIfRight


def judged(lengths, rewards, group_of=None, weights=None):
    """A batch of completions of these lengths."""
    batch = toy_batch(["a"] * len(lengths), rewards=rewards, group_of=group_of, weights=weights)
    return replace(batch, completions=pad([[2] * length for length in lengths], 0, side="right"))


def test_dapo_penalises_the_last_tokens_before_the_limit():
    shaped = Overlong(limit=20, buffer=4)(judged([16, 18, 20, 21], [1.0, 1.0, 0.0, 0.0]))
    assert shaped.parts["overlong"].tolist() == [0.0, -0.5, -1.0, -1.0]
    assert shaped.total.tolist() == [1.0, 0.5, -1.0, -1.0]


LENGTHS, RIGHT = [100, 200, 300, 400], [1.0, 1.0, 1.0, 0.0]


@pytest.mark.parametrize(
    ("unbiased", "expected"),
    [(False, [0.9546, 0.9, 0.8454, 0.0]), (True, [0.9462, 0.9, 0.8538, 0.0])],
)
def test_short_right_answers_earn_more(unbiased, expected):
    # Mean 200; the deviation of 100, 200 and 300 is 81.65, or 100 without bias.
    shaped = ShortIfRight(unbiased=unbiased)(judged(LENGTHS, RIGHT))
    assert_close(shaped.total, torch.tensor(expected), atol=1e-4, rtol=0)


def test_lengths_count_where_most_answers_are_right():
    # Half of three groups is two: those with shares of 1 and 2/3, whose right answers are all equally long.
    batch = judged([5] * 8, [1.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 0.0], group_of=[0, 0, 0, 1, 1, 2, 2, 2])
    shaped = ShortIfRight(top=0.5)(batch)
    assert_close(shaped.total, torch.tensor([1.0, 0, 0, 0.9, 0.9, 0.9, 0.9, 0]))


def test_rows_that_are_all_answers_count_as_often_as_they_are_likely():
    # The mean of 10 and 30 is 0.75 * 10 + 0.25 * 30 = 15, the variance 0.75 * 25 + 0.25 * 225 = 75.
    shaped = ShortIfRight(alpha=1.0)(judged([10, 30], [1.0, 1.0], weights=[0.75, 0.25]))
    away = torch.tensor([-5.0, 15.0]) / 75**0.5
    assert_close(shaped.total, 1 - away.sigmoid())


def test_half_a_wave_leads_from_one_value_to_the_other():
    batch = judged([5, 10, 10, 12], [1.0, 1.0, 0.0, 0.0])
    shaped = Cosine(limit=10, right=[0.4, 0.2], wrong=[-0.4, 0.0])(batch)
    # Half way the cosine is 0, so the term is the mean of both values.
    assert_close(shaped.parts["length"], torch.tensor([0.3, 0.2, 0.0, 0.0]))


@pytest.mark.parametrize("shaper", [Overlong(4, 2), ShortIfRight(), ShortIfRight(1.0, 1.0), Cosine(limit=4)])
def test_they_are_shapers(shaper):
    check_shaper(shaper)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda: Overlong(4, 0), "between 1 and limit=4"),
        (lambda: Overlong(4, 5), "between 1 and limit=4"),
        (lambda: ShortIfRight(top=0.0), "top=0.0: must be above 0"),
        (lambda: Cosine(limit=0), "at least 1"),
        (lambda: Cosine(limit=4, right=[1.0]), "right=.* two numbers"),
    ],
)
def test_wrong_settings_are_refused(wrong, said):
    with pytest.raises(ValueError, match=said):
        wrong()


@pytest.mark.parametrize("variant", ["dapo_overlong", "grpo_lambda"])
def test_the_variants_compose(variant):
    composed = compose_checked("train", [f"variant={variant}"], CONFIG_DIR)
    assert composed.faults == []
    check_config(composed.config)
    assert len(composed.config.shapers) == 1


def test_a_phase_pays_for_length_once():
    second = "{_target_: mllmrec.variants.lengths.Overlong, limit: 64, buffer: 13}"
    composed = compose_checked("train", ["variant=grpo_lambda", f"+shapers.overlong={second}"], CONFIG_DIR)
    assert plain_faults(composed.config) == [
        "shapers.short and shapers.overlong both pay for the length of answers, so one would undo or repeat the other: "
        "remove one of them, as in ~shapers.overlong"
    ]
