"""What samplers can tell about an entry without asking the policy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mllmrec.step.sampler import Pool


@dataclass(frozen=True)
class Traits:
    """Of each of a pool's entries, (size,) each."""

    history: np.ndarray  # items before the target
    popularity: np.ndarray  # how often the target occurs in all that training may see
    repeat: np.ndarray  # bool, whether the target stands in its own history


def traits_of(pool: Pool) -> Traits:
    """The traits of a pool's entries; all alike if it has no samples."""
    if pool.samples is None or pool.sample_of is None:
        nothing = np.zeros(pool.size, dtype=np.int64)
        return Traits(nothing, nothing, nothing.astype(bool))
    samples, own = pool.samples, pool.sample_of(np.arange(pool.size))
    items, offsets = samples.interactions.items.astype(np.int64), samples.interactions.offsets
    counts = np.bincount(samples.parts().joined(), minlength=int(items.max()) + 1)
    users = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    first = np.unique(users * len(counts) + items, return_index=True)[1]
    repeated = np.ones(len(items), dtype=bool)
    repeated[first] = False
    return Traits(
        samples.history_lengths[own], counts[samples.targets[own]], repeated[samples.positions[own]]
    )


def segments(values: np.ndarray, count: int) -> np.ndarray:
    """(n,) the part from 0 to ``count`` - 1 in which each value falls: about equally many in each, equal values in one."""
    edges = np.quantile(values, np.arange(1, count) / count)
    return np.searchsorted(edges, values, side="left")
