from __future__ import annotations

import numpy as np
import pytest

from mllmrec.errors import UserError
from mllmrec.rewards.base import Question
from mllmrec.rewards.semantic import Semantic
from mllmrec.testing import check_reward, toy_batch, toy_items
from mllmrec.text_encoders.base import TextEncoder
from mllmrec.text_encoders.described import DescribedItems
from mllmrec.text_encoders.tfidf import Tfidf

QUESTION = Question("7", {"7": "Red Lamp", "8": "Blue Lamp", "9": ""})


class ByHand(TextEncoder):
    """A text is its own vector: "3 4" is (0.6, 0.8)."""

    def encode(self, texts, seed=0):
        rows = np.array([[float(number) for number in text.split()] for text in texts], dtype=np.float32)
        return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)


def met(*texts: str, **settings) -> Semantic:
    """A reward that has met items 7, 8 and 9 with these texts."""
    reward = Semantic(ByHand(), **settings)
    reward.meet_items(DescribedItems(["7", "8", "9"], texts, seed=0))
    return reward


def test_an_answer_is_paid_the_cosine_with_the_target():
    reward = met("1 0", "3 4", "-2 0")
    assert reward.judge("[ITEM_7]", QUESTION) == {"reward": 1, "format": 1, "hit": 1, "similarity": 1}
    near = reward.judge("[ITEM_8] Blue Lamp", QUESTION)
    assert near == pytest.approx({"reward": 0.6, "format": 1, "hit": 0, "similarity": 0.6})
    assert reward.judge("[ITEM_9]", QUESTION)["reward"] == -1
    for wrong in ("Red Lamp", "[ITEM_8] Red Lamp", "[ITEM_6]", "[ITEM_7]\n[ITEM_8]"):
        assert reward.judge(wrong, QUESTION) == {"reward": -1, "format": 0, "hit": 0, "similarity": 0}


def test_amounts():
    reward = met("1 0", "3 4", "-2 0", similarity_weight=0.5, hit_weight=2.0, invalid=-0.25)
    rewards = [
        reward.judge(text, QUESTION)["reward"] for text in ("[ITEM_7]", "[ITEM_8]", "[ITEM_9]", "a lamp")
    ]
    assert rewards == pytest.approx([2.5, 0.3, -0.5, -0.25])
    assert reward.bounds == (-0.5, 2.5)
    assert met("1 0", "1 0", "1 0").bounds == (-1, 1)


def test_a_target_without_words_is_like_itself_alone():
    reward = met("0 0", "3 4", "0 0")
    rewards = [reward.judge(f"[ITEM_{item}]", QUESTION)["similarity"] for item in (7, 8, 9)]
    assert rewards == [1, 0, 0]


def test_titles_can_be_required():
    assert not met("1 0", "1 0", "1 0").needs_title
    reward = met("1 0", "3 4", "1 0", require_title=True)
    assert reward.needs_title
    assert reward.judge("[ITEM_8]", QUESTION)["format"] == 0
    assert reward.judge("[ITEM_8] Blue Lamp", QUESTION)["format"] == 1


def test_words_in_common_bring_items_together():
    reward = Semantic(Tfidf(8))
    items = DescribedItems(["7", "8", "9"], ["red lamp of glass", "blue lamp of glass", "wool rug"], seed=0)
    reward.meet_items(items)
    near, far = (reward.judge(f"[ITEM_{item}]", QUESTION)["similarity"] for item in (8, 9))
    assert near > 0.5
    assert far == pytest.approx(0, abs=1e-6)


def test_it_passes_the_checks_of_rewards():
    reward = Semantic(ByHand())
    with pytest.raises(ValueError, match="meet_items"):
        reward(toy_batch(["[ITEM_2]"]))
    check_reward(reward)
    # The toys by hand: item 2 is like the target at 0.6.
    reward.meet_items(toy_items())
    assert reward(toy_batch(["[ITEM_1]", "[ITEM_2]", "a lamp"])).total.tolist() == pytest.approx([1, 0.6, -1])


def test_a_word_in_the_place_of_an_encoder_is_refused_with_the_way_out():
    with pytest.raises(UserError, match=r"reward.encoder=tfidf is no encoder .* or text_encoder=tfidf"):
        Semantic("tfidf")
