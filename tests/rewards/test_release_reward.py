"""The released reward, fault by fault (17), compared with ours on the same completions."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mllmrec.rewards.base import Question
from mllmrec.rewards.hit_format import HitFormat
from mllmrec.rewards.release import Release
from mllmrec.rl.advantages import GroupRelative
from mllmrec.testing import toy_batch

QUESTION = Question("7", {"7": "Red Lamp", "8": "Blue Lamp"})
MATRIX = [
    # completion, released reward, ours
    ("[ITEM_7] Red Lamp", 1.0, 1.0),
    ("[ITEM_8] Blue Lamp", 0.3, 0.0),
    ("[ITEM_9] Green Lamp", 0.3, -1.0),  # no candidate
    ("[ITEM_7] Green Lamp", 1.0, -1.0),  # the target's id with another title
    ("[ITEM_7]", -1.0, 1.0),  # no title
    ("[ITEM_7] Red Lamp\n<think>red</think>", -1.0, 1.0),  # thinking on the next line
    ("[ITEM_7] Red Lamp <think>red</think>", 1.0, 1.0),  # thinking on the same line
    ("<think>red</think>\n[ITEM_7] Red Lamp", -1.0, 1.0),  # thinking first
    ("red</think>\n[ITEM_7] Red Lamp", -1.0, 1.0),
    ("[ITEM_7] Red Lamp\nfor it is red", -1.0, -1.0),
    ("I say [ITEM_7] Red Lamp", -1.0, -1.0),
    ("[ITEM_7] Red Lamp\n[ITEM_8] Blue Lamp", -1.0, -1.0),
    ("  [ITEM_7] Red Lamp\n", 1.0, 1.0),  # space around it
    ("", -1.0, -1.0),
]


@pytest.mark.parametrize(("completion", "released", "_"), MATRIX)
def test_release_pays_as_the_released_code(completion, released, _):
    assert Release().judge(completion, QUESTION)["reward"] == released


@pytest.mark.parametrize(("completion", "_", "ours"), MATRIX)
def test_hit_format_pays_for_the_right_answer_wherever_the_thinking_stands(completion, _, ours):
    assert HitFormat().judge(completion, QUESTION)["reward"] == ours


def test_release_amounts_and_parts():
    reward = Release(malformed=-2.0, miss=0.1, hit=3.0)
    assert reward.judge("[ITEM_7] x", QUESTION) == {"reward": 3.0, "format": 1.0, "hit": 1.0}
    assert reward.judge("[ITEM_1] x", QUESTION) == {"reward": 0.1, "format": 1.0, "hit": 0.0}
    assert reward.judge("x", QUESTION) == {"reward": -2.0, "format": 0.0, "hit": 0.0}
    assert set(reward.parts) == {"format", "hit"}
    assert reward.needs_title


def test_one_malformed_answer_makes_misses_look_good():
    texts = ["[ITEM_1] Red Lamp", "[ITEM_2] Blue Lamp", "[ITEM_2] Blue Lamp", "a lamp"]
    batch = toy_batch(texts)
    rewards = Release()(batch).total
    assert rewards.tolist() == pytest.approx([1.0, 0.3, 0.3, -1.0])
    # Their mean is 0.15 and their deviation sqrt(2.09 / 3) = 0.8347.
    given = GroupRelative()(replace(batch, rewards=rewards))
    assert given.tolist() == pytest.approx([1.0182, 0.1797, 0.1797, -1.3776], abs=1e-4)


def test_release_reads_ids_that_are_no_numbers():
    assert Release().judge("[ITEM_a%20b] x", Question("a b", {}))["hit"] == 1.0


def test_the_bounds_hold_whichever_amount_is_the_lowest():
    assert Release(malformed=0.5, miss=-0.5, hit=0.2).bounds == (-0.5, 0.5)
