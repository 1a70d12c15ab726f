"""Skill-targeted sampling after STAT (arXiv 2510.10023, github.com/princeton-pli/STAT): prompts that carry what failed prompts carry."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mllmrec.randomness import numpy_generator
from mllmrec.rl.batch import RolloutBatch
from mllmrec.step.sampler import Pool, PromptSampler, group_means, weighted_draw
from mllmrec.variants.traits import segments, traits_of

SKILLS = ("repeat", "rare_target", "popular_target", "short_history", "long_history")


def skills_of(pool: Pool) -> np.ndarray:
    """(size, skills) bool: which of `SKILLS` each entry carries; rare, popular, short and long are outer thirds."""
    traits = traits_of(pool)
    popularity, history = segments(traits.popularity, 3), segments(traits.history, 3)
    return np.stack([traits.repeat, popularity == 0, popularity == 2, history == 0, history == 2], axis=1)


def targeted(skills: np.ndarray, hard: np.ndarray) -> np.ndarray:
    """(n,) ``sum over skills k of an entry of c_k / n_k``, divided by their sum; all alike if no hard entry has a skill.

    Args:
        skills: (n, K) bool, which skills each entry carries; n_k entries carry skill k.
        hard: (n,) bool, the hard entries; c_k of them carry skill k.
    """
    carry, failed = skills.sum(0), skills[hard].sum(0)
    weights = skills @ (failed / np.maximum(carry, 1))
    total = weights.sum()
    return weights / total if total > 0 else np.full(len(skills), 1 / len(skills))


class SkillTargeted(PromptSampler):
    """Draws entries by the skills of those that the policy fails, a step none twice.

    An entry is hard if the mean reward of its last answers is below ``hard``. The share ``uniform`` of the probability is
    spread over all entries, so that those without a skill, or not yet seen, are shown too.
    """

    def __init__(self, hard: float = 0.5, uniform: float = 0.2) -> None:
        if not 0 < uniform <= 1:
            raise ValueError(f"uniform={uniform:g}: must be a share above 0 and at most 1")
        self.hard, self.uniform = hard, uniform
        self._hard = np.zeros(0, dtype=bool)

    def begin(self, pool: Pool) -> None:
        """See `PromptSampler`."""
        super().begin(pool)
        self.skills, self._hard = skills_of(pool), np.zeros(pool.size, dtype=bool)

    def probabilities(self) -> np.ndarray:
        """(size,) how likely each entry is to be drawn next."""
        wanted = targeted(self.skills, self._hard)
        return (1 - self.uniform) * wanted + self.uniform / self.pool.size

    def plan(self, step: int) -> np.ndarray:
        """See `PromptSampler`."""
        noise = numpy_generator(self.pool.seed, self.pool.purpose, "skills", step)
        return weighted_draw(np.log(self.probabilities()), self.pool.batch_size, noise)

    def observe(self, entries: np.ndarray, batch: RolloutBatch) -> None:
        """See `PromptSampler`."""
        means = group_means(batch.judged().double().numpy(), batch)
        known = np.isfinite(means)
        self._hard[entries[known]] = means[known] < self.hard

    def metrics(self) -> dict[str, float]:
        """The share of entries that are hard, as far as they were seen."""
        return {"sampler/hard": float(self._hard.mean())}

    def state_dict(self) -> dict[str, Any]:
        """The entries that are hard."""
        return {"hard": self._hard}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Part`."""
        self._hard = state["hard"].copy()
