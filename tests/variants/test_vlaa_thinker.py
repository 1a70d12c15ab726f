"""VLAA-Thinker: each kind of question has its verifier."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hydra.utils import instantiate

from mllmrec.config import CONFIG_DIR, check_config
from mllmrec.config.compose import compose_checked
from mllmrec.rewards.hit_format import HitFormat
from mllmrec.testing import check_reward, toy_batch
from mllmrec.variants.group_rank import RankingMix
from mllmrec.variants.vlaa_thinker import Mixed

ITEM, RANKED = HitFormat(invalid=0.0), RankingMix(recall=0.0, rbo=0.0)


def test_items_and_lists_of_one_batch_are_judged_apart():
    batch = toy_batch(["[ITEM_1]", "[ITEM_2]", "1. [ITEM_2]\n2. [ITEM_1]", "[ITEM_1]"], group_of=[0, 0, 1, 1])
    first, second = batch.questions
    batch = replace(batch, questions=[first, replace(second, places=2)])
    given = Mixed(ITEM, RANKED)(batch)
    # A hit and a valid miss; then NDCG 1 / log2(3) in the right form, and an item where a list was asked for.
    assert given.total.tolist() == pytest.approx([1.1, 0.1, 0.630930 + 0.1, 0.0])
    assert given.parts["format"].tolist() == [1.0, 1.0, 1.0, 0.0]


def test_it_is_a_reward():
    check_reward(Mixed(ITEM, RANKED))
    with pytest.raises(ValueError, match="at least 0"):
        Mixed(ITEM, RANKED, accuracy=-1.0)


@pytest.mark.parametrize("task", ["next_item", "ranked_list"])
def test_the_variant_composes_for_both_kinds_and_leaves_out_sft(task):
    composed = compose_checked("train", ["variant=vlaa_thinker", f"task={task}"], CONFIG_DIR)
    assert composed.faults == []
    check_config(composed.config)
    assert composed.config.method.phases == ["warmup", "grpo"]
    assert isinstance(instantiate(composed.config.reward).ranked, RankingMix)
