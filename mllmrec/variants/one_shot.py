"""1-shot RLVR (Wang et al. 2025, arXiv 2504.20571): all steps show the one or few prompts whose accuracy varied most."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mllmrec.randomness import numpy_generator
from mllmrec.rl.batch import RolloutBatch
from mllmrec.step.sampler import Pool, PromptSampler, group_means, shuffled_batches


class OneShot(PromptSampler):
    """First shuffled passes over all entries, then B copies of the ``examples`` entries whose mean reward varied most.

    ``watch`` is the share of the phase's steps that go to the passes. The variance of an entry is that of its mean
    rewards over its visits, divided by their number; entries that were seen once or never have none. Ties fall to the
    seed, so ``watch=0`` takes random entries: a training on few prompts, for comparison.
    """

    def __init__(self, examples: int = 1, watch: float = 0.5) -> None:
        if examples < 1:
            raise ValueError(f"examples={examples}: must be a number from 1 on")
        if not 0 <= watch < 1:
            raise ValueError(f"watch={watch:g}: must be a share of the steps, from 0 on and below 1")
        self.examples, self.watch = examples, watch
        self._visits = self._means = self._squares = np.zeros(0)

    def begin(self, pool: Pool) -> None:
        """See `PromptSampler`."""
        super().begin(pool)
        self._watched = round(pool.steps * self.watch)
        self._batches = shuffled_batches(pool.size, pool.batch_size, self._watched, pool.seed, pool.purpose)
        self._visits, self._means, self._squares = (np.zeros(pool.size) for _ in range(3))

    def plan(self, step: int) -> np.ndarray:
        """See `PromptSampler`; an entry may stand in a step several times."""
        if step < self._watched:
            return self._batches[step]
        return np.resize(self.chosen(), self.pool.batch_size)

    def chosen(self) -> np.ndarray:
        """(k,) the entries that varied most so far, the most varying one first."""
        ties = numpy_generator(self.pool.seed, self.pool.purpose, "one shot").permutation(self.pool.size)
        return ties[np.argsort(-self.variances()[ties], kind="stable")][: self.examples]

    def variances(self) -> np.ndarray:
        """(size,) population variance of each entry's mean rewards over its visits."""
        return self._squares / np.maximum(self._visits, 1)

    def observe(self, entries: np.ndarray, batch: RolloutBatch) -> None:
        """See `PromptSampler`. What is observed after the passes does not change the choice."""
        if batch.step >= self._watched:
            return
        found = group_means(batch.judged().double().numpy(), batch)
        entries, found = entries[np.isfinite(found)], found[np.isfinite(found)]
        # Welford's update: sums of squares about the mean lose nothing where means are large.
        self._visits[entries] += 1
        apart = found - self._means[entries]
        self._means[entries] += apart / self._visits[entries]
        self._squares[entries] += apart * (found - self._means[entries])

    def state_dict(self) -> dict[str, Any]:
        """What each entry's rewards were so far."""
        return {"visits": self._visits, "means": self._means, "squares": self._squares}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Part`."""
        self._visits, self._means = state["visits"].copy(), state["means"].copy()
        self._squares = state["squares"].copy()
