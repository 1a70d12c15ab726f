"""SEED-GRPO: prompts on which answers disagree teach less, by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch.testing import assert_close

from mllmrec.rl.groups import Groups
from mllmrec.testing import check_advantage, toy_batch
from mllmrec.variants.seed_grpo import SemanticEntropy, meanings_of, relative_entropy


@pytest.mark.parametrize("form", ["linear", "exponential", "rational"])
@pytest.mark.parametrize("weighted", [False, True])
def test_it_is_an_advantage(form, weighted):
    check_advantage(SemanticEntropy(form=form), weighted=weighted)


def entropy(meanings, group_of=None, weights=None):
    rows = torch.tensor(meanings)
    groups = Groups(
        torch.zeros_like(rows) if group_of is None else torch.tensor(group_of),
        None if weights is None else torch.tensor(weights),
    )
    return relative_entropy(rows, groups).tolist()


def test_the_entropy_of_meanings():
    # 1/2, 1/4, 1/4: half log 2 and half log 4, 1.03972, of log 4.
    assert entropy([0, 0, 1, 2]) == pytest.approx([0.75])
    assert entropy([5, 5, 5, 5]) == [0.0]
    assert entropy([0, 1, 2, 3]) == pytest.approx([1.0])
    # Groups of different sizes, and one row alone.
    assert entropy([0, 1, 1, 0, 1, 0], [0, 1, 1, 0, 0, 2]) == pytest.approx(
        [(math.log(3) - 2 / 3 * math.log(2)) / math.log(3), 0.0, 0.0]
    )


def test_probabilities_make_the_entropy_exact():
    assert entropy([0, 1], weights=[0.5, 0.5]) == pytest.approx([1.0])
    # Two rows of one meaning have 0.5 together, and so has the other meaning. A sum of 2 changes nothing.
    for scale in (1.0, 2.0):
        weights = [0.2 * scale, 0.3 * scale, 0.5 * scale]
        assert entropy([0, 0, 1], weights=weights) == pytest.approx([1.0])
    assert entropy([0, 1], weights=[1.0, 0.0]) == [0.0]
    assert entropy([0, 0], weights=[0.5, 0.5]) == [0.0]


def test_answers_mean_the_items_that_they_name():
    batch = toy_batch(["[ITEM_1]", "[ITEM_1] Red Lamp", "[ITEM_2]", "a", "b", "[ITEM_1]\n[ITEM_2]"])
    assert meanings_of(batch).tolist() == [0, 0, 1, 2, 2, 3]


@pytest.mark.parametrize(
    ("settings", "factor"),
    [
        ({}, 0.25),
        ({"alpha": 2.0}, 0.0),
        ({"alpha": -1.0}, 1.75),
        ({"form": "exponential"}, math.exp(-0.75)),
        ({"form": "rational"}, 1 / 1.75),
    ],
)
def test_disagreement_lowers_advantages(settings, factor):
    # Meanings 1/2, 1/4, 1/4; 1/2 over the deviation 0.577350 is 0.866.
    batch = toy_batch(["[ITEM_1]", "[ITEM_1]", "[ITEM_2]", "a"], rewards=[1.0, 1.0, 0.0, 0.0])
    part = SemanticEntropy(**settings)
    expected = 0.866 * factor * torch.tensor([1.0, 1, -1, -1])
    assert_close(part(batch), expected, atol=5e-4, rtol=0)
    assert part.metrics() == pytest.approx({"seed_grpo/entropy": 0.75})


def test_advantages_may_go_undivided():
    batch = toy_batch(["[ITEM_1]", "[ITEM_1]", "[ITEM_2]", "a"], rewards=[1.0, 1.0, 0.0, 0.0])
    assert_close(SemanticEntropy(scale="none")(batch), 0.125 * torch.tensor([1.0, 1, -1, -1]))


def test_groups_of_one_and_of_equal_rewards_get_exactly_nothing():
    batch = toy_batch(["[ITEM_1]", "[ITEM_2]", "a"], rewards=[0.3, 0.3, 1.0], group_of=[0, 0, 1])
    assert SemanticEntropy(alpha=-1.0)(batch).tolist() == [0.0, 0.0, 0.0]


def test_rows_of_several_groups_may_lie_in_any_order():
    texts = ["[ITEM_1]", "[ITEM_2]", "a", "[ITEM_1]", "[ITEM_1]", "[ITEM_2]", "b"]
    batch = toy_batch(texts, rewards=[1.0, 0.3, 0, 0.5, 0.5, 0.2, 0.9], group_of=[0, 0, 0, 1, 1, 1, 1])
    order = torch.tensor([3, 6, 0, 5, 1, 4, 2])
    assert_close(SemanticEntropy()(batch.take(order)), SemanticEntropy()(batch)[order])


def test_unknown_settings_are_refused():
    with pytest.raises(ValueError, match="linear, exponential, rational"):
        SemanticEntropy(form="focal")
    with pytest.raises(ValueError, match="above -1"):
        SemanticEntropy(alpha=-1.0, form="rational")
