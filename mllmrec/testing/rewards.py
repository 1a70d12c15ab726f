"""Checks of rewards and shapers."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from mllmrec.rewards.base import Reward, Rewards, Shaper, TextReward
from mllmrec.rl.batch import RolloutBatch
from mllmrec.rl.parts import COMPUTED
from mllmrec.testing.expect import (
    expect,
    expect_equal,
    expect_needs,
    expect_state,
    expect_tensor,
    expect_untouched,
    is_number,
    shown,
)
from mllmrec.testing.toys import TEXTS, toy_batch, toy_items

REWARD = (
    "a reward takes a RolloutBatch of R completions and returns Rewards: a finite total (R,) within its bounds, and each of "
    "its parts (R,); one that looks at one text at a time is a TextReward whose judge returns a dict with the key reward "
    "and one for each part (see mllmrec.rewards.base)"
)
SHAPER = (
    "a shaper takes a judged RolloutBatch of R completions and returns Rewards: the new finite total (R,) within its bounds, "
    "and each of its parts (R,) (see mllmrec.rewards.base)"
)
_GROUPS = (0, 0, 0, 1, 1, 2, 2)  # of different sizes


def check_reward(reward: Any) -> None:
    """Check names, bounds, needs, shapes and values, rows in another order, a second call, and saved state.

    Raises:
        AssertionError: it does something wrong.
    """
    expect(isinstance(reward, Reward), f"it is {shown(reward)}, not a Reward")
    _expect_names(reward.parts)
    reward.meet_items(toy_items())
    low, high = _expect_bounds(reward.bounds)
    if isinstance(reward, TextReward):
        _check_texts(reward, low, high)
    batch = toy_batch(group_of=_GROUPS)
    copied = copy.deepcopy(reward)
    given = _called(reward, batch, reward.parts, low, high)
    expect_needs(copied, batch, lambda part, rows: part(rows), COMPUTED)
    _same_again(copied, batch, given)
    expect_state(reward)


def check_shaper(shaper: Any) -> None:
    """Check names, bounds, needs, shapes and values, rows in another order, a second call, and saved state.

    Raises:
        AssertionError: it does something wrong.
    """
    expect(isinstance(shaper, Shaper), f"it is {shown(shaper)}, not a Shaper")
    _expect_names(shaper.parts)
    low, high = _expect_bounds(shaper.bounds(0.0, 1.0))
    batch = toy_batch(rewards=(1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0), group_of=_GROUPS)
    names = getattr(shaper, "weights", {}) if shaper.needs_parts else {}
    batch = replace(batch, parts={name: batch.judged() / place for place, name in enumerate(names, 1)})
    copied = copy.deepcopy(shaper)
    given = _called(shaper, batch, shaper.parts, low, high)
    expect_needs(copied, batch, lambda part, rows: part(rows), COMPUTED)
    _same_again(copied, batch, given)
    expect_state(shaper)


def _check_texts(reward: TextReward, low: float, high: float) -> None:
    question = toy_batch().questions[0]
    for text in TEXTS:
        given = reward.judge(text, question)
        expect(isinstance(given, Mapping), f"it returns {shown(given)} for {text!r}")
        for name in ("reward", *reward.parts):
            expect(name in given, f"it returns {dict(given)!r} for {text!r}, without {name}")
            expect(is_number(given[name]), f"it returns {name}={given[name]!r} for {text!r}")
        total = given["reward"]
        expect(
            low - 1e-6 <= total <= high + 1e-6,
            f"it returns reward={total:g} for {text!r}, outside its bounds {low:g} and {high:g}",
        )


def _called(part: Any, batch: RolloutBatch, names: tuple[str, ...], low: float, high: float) -> Rewards:
    before = None if batch.rewards is None else batch.rewards.clone()
    given = part(batch)
    expect(isinstance(given, Rewards), f"it returns {shown(given)}, not Rewards")
    expect_untouched(batch, before)
    rows = len(batch)
    total = expect_tensor("its total is", given.total, (rows,))
    expect(total.is_floating_point() and bool(total.isfinite().all()), f"its total is {total.tolist()}")
    inside = bool(((total >= low - 1e-6) & (total <= high + 1e-6)).all())
    expect(inside, f"its total is {total.tolist()}, outside its bounds {low:g} and {high:g}")
    missing = [name for name in names if name not in given.parts]
    expect(not missing, f"it returns the parts {sorted(given.parts)}, without {', '.join(missing)}")
    for name, values in given.parts.items():
        expect_tensor(f"its part {name} is", values, (rows,))
    return given


def _same_again(part: Any, batch: RolloutBatch, given: Rewards) -> None:
    """The part, as it was before its first call, on the rows in another order."""
    order = torch.tensor([4, 0, 6, 2, 5, 1, 3])
    again = copy.deepcopy(part)(batch.take(order))
    expect_equal("rows in another order have other totals", again.total, given.total[order])
    expect_equal("a second call gives other totals", part(batch).total, given.total)
    if not part.state_dict():
        expect_equal(
            "it remembers, and its state_dict is empty: a second call gives other totals",
            part(batch).total,
            given.total,
        )


def _expect_names(names: Any) -> None:
    named = isinstance(names, (tuple, list)) and all(isinstance(name, str) for name in names)
    expect(named, f"its parts are {names!r}, not a list of names")


def _expect_bounds(bounds: Any) -> tuple[float, float]:
    right = isinstance(bounds, (tuple, list)) and len(bounds) == 2 and all(map(is_number, bounds))
    expect(
        right and bounds[0] <= bounds[1],
        f"its bounds are {bounds!r}, not the lowest and the highest reward",
    )
    return bounds[0], bounds[1]
