"""RepExp: the printed case, and who gets a bonus."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from mllmrec.config import CONFIG_DIR, check_config
from mllmrec.config.compose import compose_checked
from mllmrec.rewards.hit_format import HitFormat
from mllmrec.testing import check_reward, toy_batch, toy_items
from mllmrec.text_encoders.tfidf import Tfidf
from mllmrec.variants.repexp import RepExp, leverages

ROWS = torch.tensor([[1, 0], [1, 0], [0, 1], [-2, -1]], dtype=torch.float64)


def test_rows_unlike_the_others_have_the_largest_bonus():
    with_own = leverages(ROWS, 0.01, leave_one_out=False)
    assert with_own.tolist() == pytest.approx([0.2488, 0.2488, 0.7438, 0.7488], abs=1e-4)
    assert float(with_own.sum()) == pytest.approx(1.9901, abs=1e-4)
    without = leverages(ROWS, 0.01, leave_one_out=True)
    assert without.tolist() == pytest.approx([0.3311, 0.3311, 2.9032, 2.9801], abs=1e-4)
    assert_close(without, with_own / (1 - with_own))
    # The definition, with the last row left out of the matrix.
    others = 0.01 * torch.eye(2, dtype=torch.float64) + ROWS[:3].T @ ROWS[:3]
    assert_close(without[3], ROWS[3] @ torch.linalg.inv(others) @ ROWS[3])


def made(**settings):
    reward = RepExp(HitFormat(invalid=0.0), Tfidf(8), **settings)
    reward.meet_items(toy_items())
    return reward


def test_groups_with_a_right_answer_get_it():
    texts = ["[ITEM_1]", "[ITEM_1]", "[ITEM_2]", "a lamp", "[ITEM_2]", "a lamp"]
    batch = toy_batch(texts, group_of=[0, 0, 0, 0, 1, 1])
    rewards = made(weight=0.5, ridge=0.1)(batch)
    # The vectors (1, 0), (1, 0), (0.6, 0.8) lie on a line, at -s, -s and 2 s of their mean with s * s = 0.8 / 9.
    square, ridge = 0.8 / 9, 0.1
    twice, once = (part * square / (ridge + (6 - part) * square) for part in (1, 4))
    assert_close(rewards.parts["novelty"], torch.tensor([twice, twice, once, 0.0, 0.0, 0.0]))
    assert_close(rewards.total, torch.tensor([1 + twice / 2, 1 + twice / 2, once / 2, 0.0, 0.0, 0.0]))
    assert rewards.parts["hit"].tolist() == [1, 1, 0, 0, 0, 0]


def test_the_bonus_is_held():
    # Two different answers: each is explained by the other, up to 1.
    batch = toy_batch(["[ITEM_1]", "[ITEM_2]"])
    assert made(cap=0.25)(batch).parts["novelty"].tolist() == [0.25, 0.25]
    assert made()(batch).parts["novelty"].tolist() == pytest.approx([0.2 / 0.21] * 2)


def test_it_is_a_reward():
    reward = RepExp(HitFormat(), Tfidf(8))
    with pytest.raises(ValueError, match="meet_items"):
        reward(toy_batch(["[ITEM_2]"]))
    check_reward(reward)
    check_reward(made(weight=-1.0, leave_one_out=False))
    with pytest.raises(ValueError, match="above 0"):
        made(ridge=0.0)


def test_the_variant_composes():
    # The bonus is a part, which gdpo may weigh.
    overrides = ["variant=repexp", "advantage=gdpo", "+advantage.weights.novelty=0.1"]
    composed = compose_checked("train", overrides, CONFIG_DIR)
    assert composed.faults == []
    check_config(composed.config)
