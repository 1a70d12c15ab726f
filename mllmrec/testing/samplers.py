"""Checks of prompt samplers."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from mllmrec.data.base import Interactions
from mllmrec.data.splits import Samples
from mllmrec.rl.batch import RolloutBatch
from mllmrec.step.sampler import Pool, PromptSampler
from mllmrec.testing.expect import expect, expect_state, shown
from mllmrec.testing.toys import toy_batch

SAMPLER = (
    "a sampler's plan returns the entries of a step, whole numbers from 0 on and below the pool's size, never none "
    "(see mllmrec.step.sampler)"
)
_SIZE, _BATCH, _STEPS = 12, 4, 6


def check_sampler(sampler: Any) -> None:
    """Check the entries of six steps, the same plan for the same seed, observed steps, and saved state.

    Raises:
        AssertionError: it does something wrong.
    """
    expect(isinstance(sampler, PromptSampler), f"it is {shown(sampler)}, not a PromptSampler")
    planned = _planned(copy.deepcopy(sampler), seed=0)
    again = _planned(copy.deepcopy(sampler), seed=0)
    expect(planned == again, f"the same seed and rollouts give other plans: {planned} and {again}")
    expect_state(sampler)


def _planned(sampler: PromptSampler, seed: int) -> list[list[int]]:
    sampler.begin(_pool(seed))
    plans = []
    for step in range(_STEPS):
        entries = np.asarray(sampler.plan(step))
        whole = entries.ndim == 1 and np.issubdtype(entries.dtype, np.integer)
        expect(whole, f"its plan of step {step} is {entries!r}, not a list of whole numbers")
        expect(
            0 < len(entries) <= _BATCH,
            f"its plan of step {step} has {len(entries)} of at most {_BATCH} entries",
        )
        inside = bool(((entries >= 0) & (entries < _SIZE)).all())
        expect(
            inside,
            f"its plan of step {step} is {entries.tolist()}, and the pool has entries 0 to {_SIZE - 1}",
        )
        sampler.observe(entries, _rollouts(entries, step))
        plans.append(entries.tolist())
    return plans


def _pool(seed: int) -> Pool:
    """Twelve samples of one user: the history of sample i has i items, and its prompt the angle i / 12."""
    interactions = Interactions(np.array(["u"]), np.array([0, _SIZE]), np.arange(_SIZE, dtype=np.int32))
    samples = Samples(interactions, np.zeros(_SIZE, dtype=np.int32), np.arange(_SIZE))
    return Pool(
        _SIZE,
        _BATCH,
        _STEPS,
        seed,
        "check",
        samples=samples,
        sample_of=lambda entries: np.asarray(entries),
        angles=lambda entries: np.asarray(entries) / _SIZE,
    )


def _rollouts(entries: np.ndarray, step: int) -> RolloutBatch:
    """Two rollouts of each entry; every third entry is answered right."""
    rewards = [float((entry + step) % 3 == 0) for entry in entries.tolist() for _ in range(2)]
    groups = [place for place in range(len(entries)) for _ in range(2)]
    return toy_batch(["[ITEM_1]"] * len(groups), rewards=rewards, group_of=groups)
