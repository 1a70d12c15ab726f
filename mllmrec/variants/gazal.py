"""Gazal-R1 (Adly et al. 2025, arXiv 2506.21594): answers that repeat themselves are penalised; its length term is in `lengths`."""

from __future__ import annotations

import torch

from mllmrec.rewards.base import Rewards, Shaper
from mllmrec.rl.batch import RolloutBatch


class Repetition(Shaper):
    """Takes away ``penalty`` times the share of a completion's word n-grams that it had before.

    A text of fewer than ``words`` words repeats nothing. This is how such terms are usually written; the authors' is
    uncertain.
    """

    parts = ("repetition",)

    def __init__(self, penalty: float = 0.1, words: int = 3) -> None:
        if penalty < 0 or words < 1:
            raise ValueError(f"penalty={penalty} and words={words}: must be at least 0 and at least 1")
        self.penalty, self.words = penalty, words

    def bounds(self, low: float, high: float) -> tuple[float, float]:
        """Up to ``penalty`` less."""
        return low - self.penalty, high

    def __call__(self, batch: RolloutBatch) -> Rewards:
        """See the class; the part is what was added, (R,)."""
        term = torch.tensor([-self.penalty * repeated(text, self.words) for text in batch.texts])
        return Rewards(batch.judged() + term, {"repetition": term})


def repeated(text: str, words: int) -> float:
    """One minus the number of different n-grams of ``words`` words over that of all."""
    said = text.casefold().split()
    grams = [tuple(said[place : place + words]) for place in range(len(said) - words + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0
