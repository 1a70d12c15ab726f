"""Curriculum pruning of RAPO (Fathom-DeepResearch, arXiv 2509.24107): passes leave out what the pass before solved."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mllmrec.rl.batch import RolloutBatch
from mllmrec.step.sampler import Pool, PromptSampler, group_means, pass_order


class Pruned(PromptSampler):
    """Passes over the entries that are left; at a pass's end those with a solve rate of ``solved`` or more are removed.

    The solve rate of an entry is the share of its last answers that earned ``right`` or more. If a pass would remove all
    that are left, they all stay.
    """

    def __init__(self, solved: float = 0.9, right: float = 1.0) -> None:
        if not 0 < solved <= 1:
            raise ValueError(f"solved={solved:g}: must be a share of right answers, above 0 and at most 1")
        self.solved, self.right = solved, right
        self._left, self._rates = np.zeros(0, dtype=bool), np.zeros(0)
        self._pass = self._place = 0

    def begin(self, pool: Pool) -> None:
        """See `PromptSampler`."""
        super().begin(pool)
        self._left, self._rates = np.ones(pool.size, dtype=bool), np.zeros(pool.size)
        self._pass = self._place = 0

    def plan(self, step: int) -> np.ndarray:
        """See `PromptSampler`; the last step of a pass may be smaller."""
        if self._place >= self._left.sum():
            harder = self._left & (self._rates < self.solved - 1e-6)
            self._left = harder if harder.any() else self._left
            self._pass, self._place = self._pass + 1, 0
        order = pass_order(self.pool.size, self.pool.seed, self.pool.purpose, self._pass)
        entries = order[self._left[order]][self._place : self._place + self.pool.batch_size]
        self._place += len(entries)
        return entries

    def observe(self, entries: np.ndarray, batch: RolloutBatch) -> None:
        """See `PromptSampler`."""
        rates = group_means((batch.judged() >= self.right).double().numpy(), batch)
        known = np.isfinite(rates)
        self._rates[entries[known]] = rates[known]

    def metrics(self) -> dict[str, float]:
        """The share of entries that are left."""
        return {"sampler/left": float(self._left.mean())}

    def state_dict(self) -> dict[str, Any]:
        """The entries that are left, their solve rates, the pass and how far it has come."""
        return {"left": self._left, "rates": self._rates, "pass": self._pass, "place": self._place}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Part`."""
        self._left, self._rates = state["left"].copy(), state["rates"].copy()
        self._pass, self._place = state["pass"], state["place"]
