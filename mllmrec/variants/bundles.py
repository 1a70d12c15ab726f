"""Steps of whole bundles of similar users, for advantages that grade bundles (RiskPO, arXiv 2510.00911)."""

from __future__ import annotations

import numpy as np

from mllmrec.randomness import numpy_generator
from mllmrec.step.sampler import Pool, PromptSampler


class Bundles(PromptSampler):
    """Passes over all entries in bundles of ``bundle`` users of one segment; the last bundle of a segment may mix two.

    Users are ranked by the number of items before the target, and the ranks are cut into ``segments`` equal parts. Each
    pass forms and orders its bundles anew. A step has as many whole bundles as fit into it; the last step of a pass may
    be smaller, and the entries that are too few for a bundle come last.
    """

    def __init__(self, bundle: int = 5, segments: int = 4) -> None:
        if bundle < 1 or segments < 1:
            raise ValueError(f"bundle={bundle} and segments={segments}: must be numbers from 1 on")
        self.bundle, self.segments = bundle, segments

    def begin(self, pool: Pool) -> None:
        """See `PromptSampler`."""
        super().begin(pool)
        self._batches: list[np.ndarray] = []
        segment_of = self._segments(pool)
        step = max(pool.batch_size // self.bundle, 1) * self.bundle
        step = min(step, pool.batch_size)
        epoch = 0
        while len(self._batches) < pool.steps:
            noise = numpy_generator(pool.seed, pool.purpose, "bundles", epoch)
            order = noise.permutation(pool.size)
            order = order[np.argsort(segment_of[order], kind="stable")]
            whole = pool.size // self.bundle * self.bundle
            bundles = noise.permutation(order[:whole].reshape(-1, self.bundle), axis=0)
            order = np.concatenate([bundles.reshape(-1), order[whole:]])
            self._batches += [order[start : start + step] for start in range(0, pool.size, step)]
            epoch += 1

    def plan(self, step: int) -> np.ndarray:
        """See `PromptSampler`."""
        return self._batches[step]

    def _segments(self, pool: Pool) -> np.ndarray:
        """(size,) the segment of each entry, from 0 on."""
        if pool.samples is None or pool.sample_of is None:
            return np.zeros(pool.size, dtype=np.int64)
        lengths = pool.samples.history_lengths[pool.sample_of(np.arange(pool.size))]
        ranks = np.empty(pool.size, dtype=np.int64)
        ranks[np.argsort(lengths, kind="stable")] = np.arange(pool.size)
        return ranks * self.segments // pool.size
