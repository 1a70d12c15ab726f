"""GroupRank: the printed measures, and the reward of a list."""

from __future__ import annotations

import pytest

from mllmrec.config import CONFIG_DIR, check_config
from mllmrec.config.compose import compose_checked
from mllmrec.rl.batch import Question
from mllmrec.testing import check_reward
from mllmrec.variants.group_rank import RankingMix, ndcg, overlap


def test_the_measures_of_three_items():
    assert ndcg([0, 1, 0]) == pytest.approx(0.6309, abs=1e-4)
    assert ndcg([0, 0, 0]) == 0
    assert overlap("abc", "bac", p=0.9) == pytest.approx(0.171)
    assert overlap("abc", "abc", p=0.9) == pytest.approx(0.271)


def judged(reward, listed):
    question = Question("1", dict.fromkeys("1234", ""), places=3)
    return reward.judge("\n".join(f"[ITEM_{item}]" for item in listed), question)


def test_a_list_is_paid_by_all_measures():
    first = judged(RankingMix(), "123")
    assert first == {"reward": 2.5, "format": 1, "hit": 1, "recall": 1, "ndcg": 1, "rbo": 1}
    second = judged(RankingMix(k=1), "213")
    # At depths 2 and 3 the overlap is 1/2 and 1/3, and the best list has 1 at depth 1 besides.
    shared = 0.9 / 2 + 0.81 / 3
    assert second["rbo"] == pytest.approx(shared / (1 + shared))
    assert (second["hit"], second["recall"]) == (0, 0)
    assert second["reward"] == pytest.approx(second["ndcg"] + 0.5 * second["rbo"])
    assert judged(RankingMix(), "234")["reward"] == 0
    assert judged(RankingMix(invalid=-1.0), "12")["reward"] == -1


def test_it_is_a_reward():
    check_reward(RankingMix())
    with pytest.raises(ValueError, match="p between 0 and 1"):
        RankingMix(p=1.0)


def test_the_variant_composes():
    composed = compose_checked("train", ["variant=group_rank"], CONFIG_DIR)
    assert composed.faults == []
    check_config(composed.config)
    assert composed.config.prompt.places == 5
