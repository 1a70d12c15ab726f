"""Multi-objective GRPO: the printed case, diversity by hand, and parts that nothing pays."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from mllmrec.config import CONFIG_DIR, check_config
from mllmrec.config.checks import plain_faults
from mllmrec.config.compose import compose_checked
from mllmrec.testing import check_shaper, toy_batch
from mllmrec.variants.multi_objective import Diversity, WeightedParts


def test_weighted_parts_are_added_up():
    batch = toy_batch(["a"], rewards=[5.0])
    parts = {"safe": torch.tensor([1.0]), "useful": torch.tensor([0.5]), "polite": torch.tensor([0.8])}
    shaped = WeightedParts({"safe": 0.4, "useful": 0.4, "polite": 0.2})(replace(batch, parts=parts))
    assert shaped.total.tolist() == pytest.approx([0.76])
    with pytest.raises(ValueError, match=r"weights.speed: no such part, but safe, useful, polite"):
        WeightedParts({"speed": 1.0})(replace(batch, parts=parts))
    with pytest.raises(ValueError, match="is empty"):
        WeightedParts({})


def test_diversity_is_the_share_of_others_that_name_something_else():
    texts = ["[ITEM_1]", "[ITEM_1] Red Lamp", "[ITEM_2]", "a lamp", "[ITEM_1]"]
    batch = toy_batch(texts, rewards=[0.0] * 5, group_of=[0, 0, 0, 0, 1])
    shaped = Diversity(weight=3.0)(batch)
    assert_close(shaped.parts["diversity"], torch.tensor([2 / 3, 2 / 3, 1, 0, 0]))
    assert_close(shaped.total, torch.tensor([2.0, 2, 3, 0, 0]))


def test_rows_that_are_all_answers_count_by_their_probabilities():
    batch = toy_batch(["[ITEM_1]", "[ITEM_2]"], rewards=[0.0, 0.0], weights=[0.75, 0.25])
    assert Diversity()(batch).parts["diversity"].tolist() == [0.25, 0.75]


@pytest.mark.parametrize("shaper", [Diversity(), Diversity(-1.0), WeightedParts({"hit": 1.0, "speed": -2.0})])
def test_they_are_shapers(shaper):
    check_shaper(shaper)


def test_the_variant_composes():
    composed = compose_checked("train", ["variant=multi_objective"], CONFIG_DIR)
    assert composed.faults == []
    check_config(composed.config)


def test_a_run_says_which_parts_there_are():
    composed = compose_checked(
        "train", ["variant=multi_objective", "+shapers.objectives.weights.speed=1.0"], CONFIG_DIR
    )
    assert plain_faults(composed.config) == [
        "shapers.objectives.weights.speed: neither reward, rollout nor a shaper above has such a part; they have diversity, format, "
        "hit, similarity: name one of these, or remove it with ~shapers.objectives.weights.speed"
    ]
