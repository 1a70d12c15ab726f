"""GAIN-RL (Wang et al. 2025, arXiv 2506.02281): a window moves over prompts ranked by the angles of their hidden states."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mllmrec.randomness import numpy_generator
from mllmrec.rl.batch import RolloutBatch
from mllmrec.step.sampler import Pool, PromptSampler, weighted_draw


def shift(accuracy: float, angle: float, most: float) -> float:
    """Ranks by which the window moves: ``most/2 (tanh(2 (accuracy - 1/2)) + tanh(2 angle))``, between 0 and ``most``."""
    moved = most / 2 * (np.tanh(2 * (accuracy - 0.5)) + np.tanh(2 * angle))
    return float(np.clip(moved, 0, most))


class GainAngle(PromptSampler):
    """Draws entries around a centre among all of them, ranked by angle from the most concentrated one on.

    The weight of rank i is ``exp(-(i - centre)^2 / (2 s^2))``, where s is ``width`` times the number of entries. After each
    step the centre moves by `shift` of the share of right answers and the step's mean angle. It moves over the share
    ``reach`` of the entries in the whole phase at most. Angles are those at the start of the phase.
    """

    def __init__(self, width: float = 0.125, reach: float = 1.0, right: float = 1.0) -> None:
        if width <= 0 or reach < 0:
            raise ValueError(f"width={width:g} and reach={reach:g}: must be above 0, and not negative")
        self.width, self.reach, self.right = width, reach, right
        self._angles, self._centre = np.zeros(0), 0.0

    def begin(self, pool: Pool) -> None:
        """See `PromptSampler`.

        Raises:
            ValueError: the pool does not know the entries' angles.
        """
        super().begin(pool)
        if pool.angles is None:
            raise ValueError("this phase does not know the angles of prompts, which GainAngle ranks")
        self._rank(pool.angles(np.arange(pool.size)))
        self._centre = 0.0

    def _rank(self, angles: np.ndarray) -> None:
        self._angles = angles
        self._ranks = np.empty(len(angles))
        self._ranks[np.argsort(-angles, kind="stable")] = np.arange(len(angles))

    def plan(self, step: int) -> np.ndarray:
        """See `PromptSampler`; no entry stands in a step twice."""
        distance = (self._ranks - self._centre) / (self.width * self.pool.size)
        noise = numpy_generator(self.pool.seed, self.pool.purpose, "angles", step)
        return weighted_draw(-(distance**2) / 2, self.pool.batch_size, noise)

    def observe(self, entries: np.ndarray, batch: RolloutBatch) -> None:
        """See `PromptSampler`."""
        right = (batch.judged() >= self.right).float()
        accuracy = float(batch.groups.mean(right).mean())
        most = self.reach * self.pool.size / self.pool.steps
        self._centre += shift(accuracy, float(self._angles[entries].mean()), most)

    def metrics(self) -> dict[str, float]:
        """How far the centre of the window has moved, as a share of the entries."""
        return {"sampler/centre": self._centre / self.pool.size}

    def state_dict(self) -> dict[str, Any]:
        """The angles at the start of the phase, and the centre of the window."""
        return {"angles": self._angles, "centre": self._centre}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Part`."""
        self._rank(state["angles"].copy())
        self._centre = state["centre"]
