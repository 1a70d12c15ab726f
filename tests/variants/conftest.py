"""What samplers choose from, and what they observe."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest

from mllmrec.data.base import Interactions
from mllmrec.data.splits import Samples
from mllmrec.rl.batch import RolloutBatch
from mllmrec.step.sampler import Pool
from mllmrec.testing import toy_batch


@pytest.fixture
def make_pool() -> Callable[..., Pool]:
    def make(users: Sequence[Sequence[int]], batch_size: int = 4, steps: int = 6, seed: int = 0) -> Pool:
        """Every item of every user is the target of an entry, in order."""
        lengths = [len(user) for user in users]
        interactions = Interactions(
            np.array([f"u{place}" for place in range(len(users))]),
            np.cumsum([0, *lengths]),
            np.concatenate([np.array(user, dtype=np.int32) for user in users]),
        )
        samples = Samples(
            interactions,
            np.repeat(np.arange(len(users), dtype=np.int32), lengths),
            np.arange(sum(lengths)),
        )
        return Pool(sum(lengths), batch_size, steps, seed, "grpo", samples, lambda entries: entries)

    return make


@pytest.fixture
def observed() -> Callable[..., RolloutBatch]:
    def make(rewards: Sequence[Sequence[float]], step: int = 0) -> RolloutBatch:
        """A step's rollouts: the rewards of each entry's answers."""
        flat = [reward for group in rewards for reward in group]
        groups = [place for place, group in enumerate(rewards) for _ in group]
        batch = toy_batch(["[ITEM_1]"] * len(flat), rewards=flat, group_of=groups)
        return replace(batch, step=step)

    return make
