"""(B, G) tables of rewards through estimators that take a batch: a row for each group."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from torch import Tensor

from mllmrec.rl.advantages import Advantage
from mllmrec.rl.groups import Groups


@pytest.fixture
def in_table(make_batch) -> Callable[..., Tensor]:
    """(B, G) rewards, and weights if rows have them → (B, G) advantages."""

    def apply(estimator: Advantage, rewards: Tensor, weights: Tensor | None = None) -> Tensor:
        return estimator(make_batch(rewards, weights)).view(rewards.shape)

    return apply


@pytest.fixture
def of_groups(make_batch) -> Callable[..., Tensor]:
    """A statistic of `Groups` by name: (B, G) values, and weights if rows have them → (B,)."""

    def compute(name: str, values: Tensor, weights: Tensor | None = None, **settings) -> Tensor:
        groups: Groups = make_batch(values, weights).groups
        return getattr(groups, name)(values.flatten(), **settings)

    return compute
