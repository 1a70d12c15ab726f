"""DUMP (Wang et al. 2025, arXiv 2504.09710): a bandit over kinds of prompts, paid by the size of their advantages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from torch import Tensor

from mllmrec.randomness import numpy_generator
from mllmrec.rl.batch import RolloutBatch
from mllmrec.step.sampler import Pool, PromptSampler, weighted_draw
from mllmrec.variants.traits import segments, traits_of


def upper_bounds(means: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """(arms,) ``L + sqrt(2 ln(n + 1) / (n_d + 1))`` from mean signals and numbers of draws; n is the sum of the latter."""
    return means + np.sqrt(2 * np.log(drawn.sum() + 1) / (drawn + 1))


def softmax(values: np.ndarray, temperature: float) -> np.ndarray:
    """(arms,) probabilities."""
    grown = np.exp((values - values.max()) / temperature)
    return grown / grown.sum()


class Ucb(PromptSampler):
    """Draws prompts from arms: ``history`` parts by length of history times ``popularity`` parts by the target's.

    An arm's signal is the mean of the last ``window`` absolute advantages of answers to its prompts. An arm is drawn with
    the softmax of its upper confidence bounds over ``temperature``, and its prompts uniformly; a step shows none twice.
    ``signal="centred"`` takes rewards minus their group's mean in place of the advantages. Advantages that are divided by
    the group's deviation hardly tell hard prompts from middling ones.
    """

    def __init__(
        self,
        history: int = 3,
        popularity: int = 3,
        window: int = 300,
        temperature: float = 0.1,
        signal: Literal["advantages", "centred"] = "advantages",
    ) -> None:
        if min(history, popularity, window) < 1:
            raise ValueError(
                f"history={history}, popularity={popularity} and window={window}: must be numbers from 1 on"
            )
        if temperature <= 0:
            raise ValueError(f"temperature={temperature:g}: must be above 0")
        self.history, self.popularity, self.window = history, popularity, window
        self.temperature, self.signal = temperature, signal
        self._seen: list[list[float]] = []
        self._drawn = np.zeros(0, dtype=np.int64)

    def begin(self, pool: Pool) -> None:
        """See `PromptSampler`."""
        super().begin(pool)
        traits = traits_of(pool)
        parts = segments(traits.history, self.history) * self.popularity
        arms, self.arm_of = np.unique(
            parts + segments(traits.popularity, self.popularity), return_inverse=True
        )
        self._sizes = np.bincount(self.arm_of)
        self._seen, self._drawn = [[] for _ in arms], np.zeros(len(arms), dtype=np.int64)

    def probabilities(self) -> np.ndarray:
        """(arms,) how likely each arm is to be drawn next."""
        return softmax(self._bounds(), self.temperature)

    def plan(self, step: int) -> np.ndarray:
        """See `PromptSampler`."""
        # Logarithms, so that no arm's probability becomes 0 by rounding and a step is always full.
        weights = (self._bounds() / self.temperature - np.log(self._sizes))[self.arm_of]
        noise = numpy_generator(self.pool.seed, self.pool.purpose, "ucb", step)
        return weighted_draw(weights, self.pool.batch_size, noise)

    def observe(self, entries: np.ndarray, batch: RolloutBatch) -> None:
        """See `PromptSampler`."""
        arms = self.arm_of[entries]
        self._drawn += np.bincount(arms, minlength=len(self._drawn))
        sizes: Sequence[float] = self._signal(batch).abs().tolist()
        for place, size in zip(batch.example_of.tolist(), sizes, strict=True):
            self._seen[arms[place]].append(size)
        self._seen = [seen[-self.window :] for seen in self._seen]

    def _bounds(self) -> np.ndarray:
        means = np.array([np.mean(seen) if seen else 0.0 for seen in self._seen])
        return upper_bounds(means, self._drawn)

    def _signal(self, batch: RolloutBatch) -> Tensor:
        """(R,)."""
        given = batch.advantages
        if self.signal == "centred" or given is None:
            return batch.groups.centred(batch.judged())
        if given.dim() == 1:
            return given
        return (given.abs() * batch.learnt).sum(1) / batch.learnt.sum(1).clamp_min(1)

    def metrics(self) -> dict[str, float]:
        """The probability of the likeliest arm."""
        return {"sampler/likeliest_arm": float(self.probabilities().max())}

    def state_dict(self) -> dict[str, Any]:
        """What each arm's answers were worth, and how often it was drawn."""
        return {"seen": self._seen, "drawn": self._drawn}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Part`."""
        self._seen, self._drawn = [list(seen) for seen in state["seen"]], state["drawn"].copy()
