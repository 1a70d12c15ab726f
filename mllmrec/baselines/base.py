"""What every classical recommender offers: it is fitted to sequences of item codes and scores candidates."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # its import takes seconds, and counting recommenders need none of it
    import lightning


@dataclass(frozen=True)
class FitInputs:
    """What a recommender may learn from; I items, U users."""

    sequences: Sequence[np.ndarray]  # U of item codes (0 to I - 1), oldest first: the users' training parts
    num_items: int  # I
    texts: Sequence[str]  # I texts: title, details and caption of an item
    seed: int
    make_trainer: Callable[
        ..., lightning.Trainer
    ]  # takes max_epochs, max_steps, callbacks, as Lightning names them
    measure: Callable[[], float] | None = (
        None  # held-out metric of the recommender as it is now; larger is better
    )
    section: str = "method.recommender"  # of the configuration, where the recommender's settings stand


class Recommender(ABC):
    """Orders candidates by the history before them.

    Nothing is loaded in the constructor. `fit` or `load` is called before `scores`.
    """

    @abstractmethod
    def fit(self, inputs: FitInputs) -> None:
        """Learn from the training sequences."""

    @abstractmethod
    def scores(self, histories: Sequence[np.ndarray], candidates: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Score candidates, larger is better; ties are broken by the caller.

        Args:
            histories: S of item codes, whole and oldest first.
            candidates: S of (C,) item codes; C may differ, and may be nearly all items.

        Returns:
            S of (C,) float64.
        """

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write what `load` needs."""

    @abstractmethod
    def load(self, folder: Path, num_items: int) -> None:
        """Read what `save` wrote.

        Raises:
            UserError: the folder does not hold this recommender's weights for so many items.
        """
