"""GDPO: parts of a reward that are standardised before they are added up, by hand."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from mllmrec.config import CONFIG_DIR
from mllmrec.config.checks import plain_faults
from mllmrec.config.compose import compose_checked
from mllmrec.rl.advantages import GroupRelative
from mllmrec.rl.decoupled import Decoupled
from mllmrec.testing import check_advantage

HIT, FORMAT = torch.tensor([1.0, 0, 0, 0]), torch.tensor([0, 0, 0.1, 0.1])


@pytest.mark.parametrize("weighted", [False, True])
def test_it_is_an_advantage(weighted):
    check_advantage(Decoupled({"hit": 1.0, "format": 0.5}), weighted=weighted)


def given(make_batch, estimator, *, weights=None, group_of=(0, 0, 0, 0), **parts):
    total = sum(parts.values())
    return estimator(make_batch(total, weights, group_of=list(group_of), parts=parts))


def test_a_small_part_is_heard_beside_a_large_one(make_batch):
    expected = torch.tensor([0.6914, -1.4853, 0.3969, 0.3969])
    both = given(make_batch, Decoupled({"hit": 1, "format": 1}), hit=HIT, format=FORMAT)
    assert_close(both, expected, atol=5e-5, rtol=0)
    # GRPO on the sum hides it.
    added = given(make_batch, GroupRelative(), hit=HIT, format=FORMAT)
    assert_close(added, torch.tensor([1.4921, -0.6395, -0.4263, -0.4263]), atol=5e-5, rtol=0)


def test_a_weight_of_zero_leaves_a_part_out(make_batch):
    # 1.5 and -0.5 have a deviation of 1: GRPO's own advantages.
    alone = given(make_batch, Decoupled({"hit": 1, "format": 0}), hit=HIT, format=FORMAT)
    assert_close(alone, torch.tensor([1.5, -0.5, -0.5, -0.5]), atol=2e-3, rtol=0)
    assert_close(alone, given(make_batch, Decoupled({"hit": 1}), hit=HIT, format=FORMAT))


def test_groups_without_a_difference_get_exactly_nothing(make_batch):
    hit, form = torch.cat([HIT, torch.full((4,), 0.3)]), torch.cat([FORMAT, torch.full((4,), 0.7)])
    both = given(
        make_batch, Decoupled({"hit": 1, "format": 1}), group_of=[0] * 4 + [1] * 4, hit=hit, format=form
    )
    assert (both[4:] == 0).all()
    assert both[:4].ne(0).all()
    # A group of one, and a step without any difference.
    alone = given(make_batch, Decoupled({"hit": 1}), group_of=[0, 1, 2, 3], hit=HIT)
    assert (alone == 0).all()


def test_weights_of_rows_make_the_deviations_exact(make_batch):
    # A hit with probability 0.2: 0.8 / 0.4 and -0.2 / 0.4, whose deviation is 1.
    chances, hit = torch.tensor([0.2, 0.5, 0.3]), torch.tensor([1.0, 0, 0])
    found = given(make_batch, Decoupled({"hit": 3.0}), weights=chances, group_of=[0, 0, 0], hit=hit)
    assert_close(found, torch.tensor([2.0, -0.5, -0.5]), atol=1e-3, rtol=0)


def test_rows_of_several_groups_may_lie_in_any_order(make_batch):
    hit = torch.tensor([1.0, 0, 0, 0.5, 0, 0, 1])
    batch = make_batch(hit, group_of=[0, 0, 0, 1, 1, 1, 1], parts={"hit": hit, "format": hit.flip(0)})
    order = torch.tensor([3, 6, 0, 5, 1, 4, 2])
    part = Decoupled({"hit": 1, "format": 2})
    assert_close(part(batch.take(order)), part(batch)[order])


def test_parts_that_nothing_pays_are_named(make_batch):
    with pytest.raises(ValueError, match=r"advantage.weights.speed: .* but hit"):
        given(make_batch, Decoupled({"hit": 1, "speed": 1}), hit=HIT)
    with pytest.raises(ValueError, match="is empty"):
        Decoupled({})


def test_a_run_says_which_parts_there_are():
    def faults(*overrides):
        result = compose_checked("train", ["advantage=gdpo", *overrides], CONFIG_DIR)
        assert result.faults == []
        return plain_faults(result.config)

    # The bonus of a shaper is a part too.
    assert faults("variant=grpo_care", "+advantage.weights.consistency=0.5") == []
    assert faults("+advantage.weights.speed=1.0") == [
        "advantage.weights.speed: neither reward nor shapers have such a part; they have format, hit: name one of these, "
        "or remove it with ~advantage.weights.speed"
    ]
