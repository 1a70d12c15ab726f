from __future__ import annotations

import pytest

from mllmrec.rewards.base import Question
from mllmrec.rewards.hit_format import HitFormat

QUESTION = Question("7", {"7": "Red Lamp", "8": "Blue Lamp", "9": ""})


def test_amounts_and_parts():
    reward = HitFormat(hit_weight=2.0, format_weight=0.5, invalid=-0.25)
    assert reward.judge("[ITEM_7] Red Lamp", QUESTION) == {"reward": 2.5, "format": 1.0, "hit": 1.0}
    assert reward.judge("[ITEM_8]", QUESTION) == {"reward": 0.5, "format": 1.0, "hit": 0.0}
    assert reward.judge("Red Lamp", QUESTION) == {"reward": -0.25, "format": 0.0, "hit": 0.0}
    assert set(reward.parts) == {"format", "hit"}


@pytest.mark.parametrize(
    ("completion", "loose", "strict"),
    [
        ("[ITEM_7]", 1.0, 0.0),
        ("[ITEM_7] red  lamp", 1.0, 1.0),
        ("[ITEM_8] Red Lamp", 0.0, 0.0),  # another candidate's title
        ("[ITEM_9]", 1.0, 1.0),  # an item without title needs none in the answer
        ("[ITEM_9] Rug", 0.0, 0.0),
    ],
)
def test_titles_that_are_said_must_be_right(completion, loose, strict):
    assert HitFormat().judge(completion, QUESTION)["format"] == loose
    assert HitFormat(require_title=True).judge(completion, QUESTION)["format"] == strict


def test_only_a_reward_that_requires_titles_needs_them():
    assert not HitFormat().needs_title
    assert HitFormat(require_title=True).needs_title


def test_an_unclosed_thought_is_no_answer():
    assert HitFormat().judge("[ITEM_7] Red Lamp\n<think>and so on", QUESTION)["reward"] == -1.0
