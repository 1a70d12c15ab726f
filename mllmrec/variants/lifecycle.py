"""The lifecycle of prompts in FaVChat's DE-GRPO: prompts that no longer teach are removed, and the best ones decay."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from mllmrec.randomness import numpy_generator
from mllmrec.rl.batch import RolloutBatch
from mllmrec.rl.parts import OLD
from mllmrec.step.sampler import Pool, PromptSampler, weighted_draw

TINY = 1e-6  # keeps a difference of zero out of the geometric mean's logarithm


def spread(values: np.ndarray, mean: Literal["geometric", "arithmetic"]) -> float:
    """The mean absolute difference over all pairs of (G,) values; ``geometric``: of the differences plus 1e-6."""
    first, second = np.triu_indices(len(values), 1)
    apart = np.abs(values[first] - values[second])
    if not len(apart):
        return 0.0
    return float(np.exp(np.log(apart + TINY).mean()) if mean == "geometric" else apart.mean())


class Lifecycle(PromptSampler):
    """Draws entries by their utility: none below ``remove``, half as often above ``decay``, a step none twice.

    After each visit the utility becomes ``keep * utility + (1 - keep) * spread of rewards * spread of log-probabilities``,
    over all pairs of the entry's answers. Without ``logprobs`` the second factor is left out. Utilities start at
    ``start``. An entry that is removed does not come back, unless all are.
    """

    def __init__(
        self,
        mean: Literal["geometric", "arithmetic"] = "arithmetic",
        logprobs: bool = False,
        keep: float = 0.8,
        remove: float = 0.2,
        decay: float = 0.8,
        start: float = 0.5,
    ) -> None:
        if not 0 <= keep < 1:
            raise ValueError(f"keep={keep:g}: must be a share, from 0 on and below 1")
        if not remove <= start or not remove <= decay:
            raise ValueError(f"remove={remove:g}: must not be above start={start:g} or decay={decay:g}")
        # The policy's own log-probabilities take a pass of their own.
        self.needs = frozenset({OLD}) if logprobs else frozenset()
        self.mean, self.keep = mean, keep
        self.remove, self.decay, self.start = remove, decay, start
        self._utility = np.zeros(0)

    def begin(self, pool: Pool) -> None:
        """See `PromptSampler`."""
        super().begin(pool)
        self._utility = np.full(pool.size, self.start)

    def weights(self) -> np.ndarray:
        """(size,) 0 for removed entries, 0.5 for decayed ones, 1 for others."""
        return np.where(self._utility < self.remove, 0.0, np.where(self._utility > self.decay, 0.5, 1.0))

    def plan(self, step: int) -> np.ndarray:
        """See `PromptSampler`; smaller if fewer entries are left."""
        if not self.weights().any():
            self._utility[:] = self.start
        noise = numpy_generator(self.pool.seed, self.pool.purpose, "lifecycle", step)
        with np.errstate(divide="ignore"):
            return weighted_draw(np.log(self.weights()), self.pool.batch_size, noise)

    def observe(self, entries: np.ndarray, batch: RolloutBatch) -> None:
        """See `PromptSampler`."""
        rewards, places = batch.judged().double().numpy(), batch.example_of.numpy()
        likely = None
        if OLD in self.needs and batch.old is not None:
            counts = batch.learnt.sum(1).clamp_min(1)
            likely = ((batch.old * batch.learnt).sum(1) / counts).double().cpu().numpy()
        for place, entry in enumerate(entries.tolist()):
            own = places == place
            if not own.any():
                continue
            gain = spread(rewards[own], self.mean)
            gain *= 1.0 if likely is None else spread(likely[own], self.mean)
            self._utility[entry] = self.keep * self._utility[entry] + (1 - self.keep) * gain

    def metrics(self) -> dict[str, float]:
        """The share of entries that are left."""
        return {"sampler/left": float((self.weights() > 0).mean())}

    def state_dict(self) -> dict[str, Any]:
        """The entries' utilities."""
        return {"utility": self._utility}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Part`."""
        self._utility = state["utility"].copy()
