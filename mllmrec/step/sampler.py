"""Which training prompts a step shows: shuffled passes over all, or a curriculum."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from mllmrec.data.splits import Samples
from mllmrec.randomness import numpy_generator
from mllmrec.rl.batch import RolloutBatch
from mllmrec.rl.parts import Part


@dataclass(frozen=True)
class Pool:
    """What a sampler chooses from."""

    size: int  # entries; an entry is a training sample in one of its forms
    batch_size: int  # B, entries of a step
    steps: int  # in the whole phase
    seed: int  # the run's seed
    purpose: str  # names the draws
    samples: Samples | None = None  # the training samples: users, histories, targets
    sample_of: Callable[[np.ndarray], np.ndarray] | None = None  # (n,) entries → (n,) their samples
    angles: Callable[[np.ndarray], np.ndarray] | None = (
        None  # (n,) entries → (n,) how concentrated the angles of their prompts are
    )


class PromptSampler(Part):
    """Chooses the entries of each step. The number of steps is fixed, so the learning rate has its horizon."""

    plans_ahead: ClassVar[bool] = (
        False  # whether the plan depends on the pool alone, and not on observed rollouts
    )

    pool: Pool

    def begin(self, pool: Pool) -> None:
        """Called once, before the first step."""
        self.pool = pool

    @abstractmethod
    def plan(self, step: int) -> np.ndarray:
        """(B,) entries of a step (from 0 on), as positions in the pool. It may be smaller than B, and not empty."""

    def observe(self, entries: np.ndarray, batch: RolloutBatch) -> None:
        """Learn from a step's judged rollouts; ``entries`` (B,) are those of its examples, in order."""


class Shuffled(PromptSampler):
    """Passes over all entries, each in a new order; the last step of a pass may be smaller."""

    plans_ahead = True

    def begin(self, pool: Pool) -> None:
        """See `PromptSampler`."""
        super().begin(pool)
        self._batches = shuffled_batches(pool.size, pool.batch_size, pool.steps, pool.seed, pool.purpose)

    def plan(self, step: int) -> np.ndarray:
        """See `PromptSampler`."""
        return self._batches[step]


def shuffled_batches(size: int, batch_size: int, steps: int, seed: int, purpose: str) -> list[np.ndarray]:
    """The positions of each step, shuffled anew every epoch; the last batch of an epoch may be smaller.

    Args:
        size: number of samples.
        batch_size: samples in a step.
        steps: number of steps.
        seed: the run's seed.
        purpose: names the shuffles.
    """
    batches: list[np.ndarray] = []
    epoch = 0
    while len(batches) < steps:
        order = pass_order(size, seed, purpose, epoch)
        batches += [order[start : start + batch_size] for start in range(0, size, batch_size)]
        epoch += 1
    return batches[:steps]


def pass_order(size: int, seed: int, purpose: str, number: int) -> np.ndarray:
    """(size,) the order of all positions in the pass with this number, from 0 on."""
    return numpy_generator(seed, purpose, "epoch", number).permutation(size)


def weighted_draw(log_weights: np.ndarray, count: int, generator: np.random.Generator) -> np.ndarray:
    """Different positions, drawn one after another with probabilities in proportion to the weights of those left.

    Args:
        log_weights: (n,) logarithms of the weights; minus infinity is never drawn.
        count: how many; fewer come back if fewer have a weight.
        generator: draws.
    """
    # The largest of log-weights plus Gumbel noise are such a draw, and no weight becomes 0 by rounding.
    noisy = log_weights + generator.gumbel(size=len(log_weights))
    order = np.argsort(-noisy, kind="stable")[:count]
    return order[np.isfinite(log_weights[order])]


def group_means(values: np.ndarray, batch: RolloutBatch) -> np.ndarray:
    """(N,) mean of (R,) values over the completions of each example of a batch; NaN for an example without any."""
    places = batch.example_of.cpu().numpy()
    count = np.bincount(places, minlength=len(batch.examples))
    total = np.bincount(places, weights=values, minlength=len(batch.examples))
    return np.divide(total, count, out=np.full(len(count), np.nan), where=count > 0)


def count_steps(size: int, batch_size: int, epochs: float, max_steps: int | None) -> int:
    """The number of steps in ``epochs`` passes (a fraction ends within a pass), at most ``max_steps``."""
    per_epoch = math.ceil(size / batch_size)
    # 100 steps times 0.07 is 7.000000000000001 in binary fractions; that must not add an eighth step.
    steps = math.ceil(round(per_epoch * epochs, 6))
    return steps if max_steps is None else min(steps, max_steps)
