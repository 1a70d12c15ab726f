"""Which training samples carry reasoning."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mllmrec.errors import UserError
from mllmrec.randomness import derive_seed


def select_cot(sample_ids: Sequence[str] | np.ndarray, mix_ratio: float, seed: int) -> np.ndarray:
    """Choose ``round(mix_ratio * S)`` of S samples for reasoning; True where chosen, (S,) bool.

    Every sample has a rank drawn from ``seed`` and its id, and the lowest are chosen: the choice neither depends on
    the samples' order nor on any other draw, and a larger ratio keeps all that a smaller one chose.

    Raises:
        UserError: ``mix_ratio`` lies outside 0 to 1.
        ValueError: an id stands twice.
    """
    if not 0 <= mix_ratio <= 1:
        raise UserError(f"mix_ratio={mix_ratio}: must lie between 0 and 1")
    names = [str(name) for name in sample_ids]
    if len(set(names)) < len(names):
        raise ValueError("sample ids must be unique: the choice is made by id")
    ranks = np.array([derive_seed(seed, "cot-selection", name) for name in names], dtype=np.int64)
    chosen = np.zeros(len(names), dtype=bool)
    chosen[np.argsort(ranks, kind="stable")[: round(mix_ratio * len(names))]] = True
    return chosen
