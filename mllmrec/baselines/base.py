"""The interface of classical recommenders: each is fitted to sequences of item codes and scores candidates."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

if TYPE_CHECKING:  # importing it takes seconds, and counting recommenders do not need it
    import lightning

    from mllmrec.run.progress import SavedProgress


@dataclass(frozen=True)
class FitInputs:
    """The data that a recommender may learn from; I items, U users."""

    sequences: Sequence[np.ndarray]  # U arrays of item codes (0 to I - 1), oldest first: training parts
    num_items: int  # I
    texts: Sequence[str]  # I texts: title, details and caption of an item
    seed: int
    make_trainer: Callable[
        ..., lightning.Trainer
    ]  # takes max_epochs, max_steps and callbacks, named as in Lightning
    progress: SavedProgress | None = None  # saves training between steps, for trainers of `make_trainer`
    measure: Callable[[], float] | None = (
        None  # held-out metric of the recommender in its present state; larger is better
    )
    section: str = "method.recommender"  # the section of the configuration with the recommender's settings
    cache_dir: Path | None = None  # where vectors of texts are kept; None: they are not


class Recommender(ABC):
    """Orders candidates by the history before them.

    Nothing is loaded in the constructor. `fit` or `load` is called before `scores`.
    """

    shared: ClassVar[bool] = False  # whether jobs share what it learnt; counting is as quick as reading

    @abstractmethod
    def fit(self, inputs: FitInputs) -> None:
        """Learn from the training sequences."""

    @abstractmethod
    def scores(self, histories: Sequence[np.ndarray], candidates: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Score candidates; larger is better. The caller breaks ties.

        Args:
            histories: S arrays of item codes, complete and oldest first.
            candidates: S arrays of (C,) item codes. C may differ, and may include nearly all items.

        Returns:
            S arrays of (C,) float64.
        """

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write what `load` needs."""

    @abstractmethod
    def load(self, folder: Path, num_items: int) -> None:
        """Read what `save` wrote.

        Raises:
            UserError: the folder does not hold weights of this recommender for `num_items` items.
        """
