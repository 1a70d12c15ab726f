"""Checks of advantages."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any, get_args

import torch
from torch import Tensor

from mllmrec.rl.advantages import Advantage, Varies
from mllmrec.rl.batch import RolloutBatch
from mllmrec.rl.parts import COMPUTED
from mllmrec.testing.expect import (
    expect,
    expect_equal,
    expect_needs,
    expect_state,
    expect_tensor,
    expect_untouched,
    shown,
)
from mllmrec.testing.toys import toy_batch

ADVANTAGE = (
    "an advantage takes a judged RolloutBatch and returns finite numbers (R,), or (R, T) if it varies within a completion "
    "(see mllmrec.rl.advantages)"
)
# One hit of four; all equal, where a deviation is zero. In a flat batch the deviation of all rows is zero, too.
_REWARDS, _EVEN = (1.0, 0.0, 0.0, 0.0, 0.3, 0.3, 0.3, 0.3), (0, 0, 0, 0, 1, 1, 1, 1)
_FLAT = (0.5,) * 8
_RAGGED = (0, 0, 0, 1, 1, 1, 1, 1)
_TEXTS = ("[ITEM_1]", "[ITEM_2]", "a", "a lamp", "b", "[ITEM_2] Blue Lamp", "c d e", "d")


def check_advantage(advantage: Any, *, weighted: bool = False) -> None:
    """Check the shape, what it needs, equal rewards, groups of different sizes, rows in another order, and saved state.

    Args:
        advantage: the part.
        weighted: whether rows carry probabilities, as those of ``rollout=enumerate`` do.

    Raises:
        AssertionError: it does something wrong.
    """
    expect(isinstance(advantage, Advantage), f"it is {shown(advantage)}, not an Advantage")
    expect(
        advantage.varies in get_args(Varies),
        f"it varies by {advantage.varies!r}, which is none of {get_args(Varies)}",
    )
    weights = (0.1, 0.2, 0.3, 0.4, 0.25, 0.25, 0.25, 0.25) if weighted else None
    even = _with_parts(toy_batch(_TEXTS, rewards=_REWARDS, group_of=_EVEN, weights=weights), advantage)
    before = copy.deepcopy(advantage)
    given = _called(advantage, even)
    expect_equal(
        "a second call on the same state gives other advantages", _called(copy.deepcopy(before), even), given
    )
    if not advantage.state_dict():
        again = _called(advantage, even)
        expect_equal(
            "it remembers, and its state_dict is empty: a second call gives other advantages", again, given
        )
    _called(copy.deepcopy(before), _with_parts(replace(even, rewards=torch.tensor(_FLAT)), advantage))
    expect_needs(before, even, _called, COMPUTED)
    ragged = _with_parts(toy_batch(_TEXTS, rewards=_REWARDS, group_of=_RAGGED), advantage)
    for batch in (even, ragged):
        # Only rows of a group change places, so that parts that pair rows of several groups are not asked for too much.
        order = torch.tensor([2, 0, 1, 3, 5, 4, 7, 6])
        straight, moved = (
            _called(copy.deepcopy(before), batch),
            _called(copy.deepcopy(before), batch.take(order)),
        )
        expect_equal("rows in another order have other advantages", moved, straight[order])
    expect_state(advantage)


def _with_parts(batch: RolloutBatch, advantage: Advantage) -> RolloutBatch:
    """The batch with the parts of a reward that the advantage names: powers of the rewards."""
    names = getattr(advantage, "weights", {}) if advantage.needs_parts else {}
    rewards = batch.judged()
    return replace(batch, parts={name: rewards**power for power, name in enumerate(names, 1)})


def _called(advantage: Advantage, batch: RolloutBatch) -> Tensor:
    rewards = batch.judged().clone()
    given = advantage(batch)
    expect_untouched(batch, rewards)
    shape = (len(batch),) if advantage.varies == "sequence" else tuple(batch.learnt.shape)
    given = expect_tensor("it returns", given, shape)
    finite = given.is_floating_point() and bool(given.isfinite().all())
    paid = [round(one, 3) for one in rewards.tolist()]
    expect(finite, f"for rewards {paid} in groups {batch.group_of.tolist()} it returns {given.tolist()}")
    return given
