"""Sequences small enough to count by hand, a cycle that can be learnt, and a real Trainer."""

from __future__ import annotations

from collections.abc import Callable

import lightning
import numpy as np
import pytest

from mllmrec.baselines.base import FitInputs

CYCLE = 12


@pytest.fixture
def make_inputs() -> Callable[..., FitInputs]:
    def make_trainer(**settings) -> lightning.Trainer:
        return lightning.Trainer(
            accelerator="cpu",
            devices=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            **settings,
        )

    def make(sequences: list[list[int]], num_items: int, **settings) -> FitInputs:
        texts = [f"word{item} thing{item % 3}" for item in range(num_items)]
        given = {"texts": texts, "seed": 0, "make_trainer": make_trainer, **settings}
        return FitInputs([np.array(items, dtype=np.int32) for items in sequences], num_items, **given)

    return make


@pytest.fixture
def cycle(make_inputs) -> Callable[..., FitInputs]:
    """Item i is followed by i + 1 modulo 12, in 60 sequences of 3 to 7 items."""
    return lambda **settings: make_inputs(
        [[(start + place) % CYCLE for place in range(3 + start % 5)] for start in range(60)],
        CYCLE,
        **settings,
    )


@pytest.fixture
def cycle_hits() -> Callable[..., float]:
    """HR@1 among all items that are not in the history, over histories of 4 items from each start."""

    def hits(recommender) -> float:
        histories = [np.array([(start + place) % CYCLE for place in range(4)]) for start in range(CYCLE)]
        candidates = [np.setdiff1d(np.arange(CYCLE), history) for history in histories]
        scores = recommender.scores(histories, candidates)
        best = [wanted[row.argmax()] for wanted, row in zip(candidates, scores, strict=True)]
        return float(
            np.mean(
                [(history[-1] + 1) % CYCLE == item for history, item in zip(histories, best, strict=True)]
            )
        )

    return hits


@pytest.fixture
def items() -> Callable[..., list[np.ndarray]]:
    """Lists of item codes as the arrays that recommenders take."""
    return lambda *lists: [np.array(codes, dtype=np.int32) for codes in lists]
