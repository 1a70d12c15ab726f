from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
import torch

from mllmrec.cot import select_cot
from mllmrec.errors import UserError

IDS = [f"user{number}/0" for number in range(1000)]


@pytest.mark.parametrize(("ratio", "chosen"), [(0.0, 0), (0.05, 50), (0.1, 100), (0.3333, 333), (1.0, 1000)])
def test_exactly_the_share_asked_for(ratio: float, chosen: int) -> None:
    assert select_cot(IDS, ratio, seed=0).sum() == chosen


def test_the_choice_belongs_to_the_id_and_not_to_the_position() -> None:
    chosen = {name for name, taken in zip(IDS, select_cot(IDS, 0.2, seed=3), strict=True) if taken}
    order = np.random.default_rng(0).permutation(len(IDS))
    shuffled = np.array(IDS)[order]
    assert {str(name) for name in shuffled[select_cot(shuffled, 0.2, seed=3)]} == chosen


def test_a_larger_ratio_keeps_what_a_smaller_one_chose() -> None:
    masks = [select_cot(IDS, ratio, seed=1) for ratio in (0.05, 0.1, 0.3, 0.9)]
    for small, large in itertools.pairwise(masks):
        assert (large | ~small).all()


def test_another_seed_chooses_others() -> None:
    # Two independent halves of 1,000 share 250 on average, with a standard deviation of about 8.
    shared = (select_cot(IDS, 0.5, seed=0) & select_cot(IDS, 0.5, seed=1)).sum()
    assert 200 < shared < 300


def test_global_generators_change_nothing() -> None:
    """Fault 9 of the release: the choice came from Python's global generator."""
    masks = []
    for value in (1, 2):
        random.seed(value)
        np.random.seed(value)  # noqa: NPY002
        torch.manual_seed(value)
        masks.append(select_cot(IDS, 0.1, seed=0))
    np.testing.assert_array_equal(masks[0], masks[1])


def test_choosing_leaves_global_generators_alone() -> None:
    random.seed(5)
    torch.manual_seed(5)
    expected = random.random(), torch.rand(1).item()
    random.seed(5)
    torch.manual_seed(5)
    select_cot(IDS, 0.5, seed=0)
    assert (random.random(), torch.rand(1).item()) == expected


@pytest.mark.parametrize("ratio", [-0.1, 1.5, float("nan")])
def test_a_ratio_outside_0_to_1_is_refused(ratio: float) -> None:
    with pytest.raises(UserError, match="mix_ratio"):
        select_cot(IDS, ratio, seed=0)


def test_repeated_ids_are_a_defect() -> None:
    with pytest.raises(ValueError, match="unique"):
        select_cot(["a", "a"], 0.5, seed=0)


def test_no_samples() -> None:
    assert select_cot([], 0.5, seed=0).shape == (0,)
