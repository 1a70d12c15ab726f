"""What every dataset returns: interactions and an item table, as columns rather than Python objects."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np

TRAIN, VALIDATION, TEST = 0, 1, 2
NO_TARGET = -1
SPLITS = {"train": TRAIN, "validation": VALIDATION, "test": TEST}


@dataclass(frozen=True)
class Items:
    """The catalogue of I items: entry ``i`` of every array is one item.

    ``images`` is keyed by item id and holds only items that have an image file. ``kept`` is False for an item if a
    subset of the users was chosen and only users outside it have the item. None: all items are kept.
    """

    ids: np.ndarray  # (I,) str, unique
    titles: np.ndarray  # (I,) str; "" when unknown
    details: np.ndarray  # (I,) str: brand, category, genres as text; "" when unknown
    images: dict[str, Path] = field(default_factory=dict)
    kept: np.ndarray | None = None  # (I,) bool

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def offered(self) -> np.ndarray:
        """(I,) bool: items that may be negatives or recommendations. They have a title and are kept."""
        titled = self.titles != ""
        return titled if self.kept is None else titled & self.kept

    def only_kept(self) -> Items:
        """A catalogue of the kept items only, for work that costs time or money per item."""
        if self.kept is None:
            return self
        kept = self.kept
        ids = set(self.ids[kept].tolist())
        images = {item: path for item, path in self.images.items() if item in ids}
        return Items(self.ids[kept], self.titles[kept], self.details[kept], images)


@dataclass(frozen=True)
class RawInteractions:
    """Interactions as a loader found them, in file order: N rows, U users, coded against ``user_ids`` and the items.

    A publisher gives a split in one of two ways, or not at all. ``split`` labels whole sequences: all rows of a user
    code are TRAIN or all are TEST, and a user in both files has one code per file. ``targets`` labels each row with
    the split in which it is to be predicted, or NO_TARGET if it only belongs to histories. In both cases all codes
    of one person have the same name in ``user_ids``.
    """

    user_ids: np.ndarray  # (U,) str
    users: np.ndarray  # (N,) int32, index into user_ids
    items: np.ndarray  # (N,) int32, index into Items
    timestamps: np.ndarray | None = None  # (N,) int64, any unit; None: file order is time order
    ratings: np.ndarray | None = None  # (N,) float32
    split: np.ndarray | None = None  # (N,) int8: TRAIN or TEST
    targets: np.ndarray | None = None  # (N,) int8: TRAIN, VALIDATION, TEST or NO_TARGET

    @property
    def is_split(self) -> bool:
        """Whether the publisher gives the split."""
        return self.split is not None or self.targets is not None


@dataclass
class RawData:
    """One dataset as loaded. Nothing is filtered; ``skipped`` counts everything that was skipped while reading."""

    name: str
    items: Items
    interactions: RawInteractions
    skipped: dict[str, int] = field(
        default_factory=dict
    )  # reason -> rows, files or images left out at reading


class Dataset(ABC):
    """A source of interactions and items. Subclasses take plain parameters and read, download or generate."""

    asks_for: ClassVar[
        tuple[str, ...]
    ] = ()  # parameters that only the user knows, such as the folder of the data
    takes_files: ClassVar[bool] = (
        False  # whether the user names the files of interactions, or of a published split
    )

    name: str
    domain: str = "item"  # the noun in the prompts: "movie", "beauty product", "micro-video"

    def files_read(self) -> dict[str, Path] | None:
        """All files that decide what `load` returns, by a name of each; None, as here: nobody vouches for a list."""
        return None

    @abstractmethod
    def load(self) -> RawData:
        """Read everything.

        Raises:
            UserError: a file is missing or malformed (naming file, line, id and what to do).
        """


@dataclass(frozen=True)
class Interactions:
    """Interactions per user in time order, stored flat; U users, N interactions.

    The items of user ``u`` are ``items[offsets[u]:offsets[u + 1]]``, oldest first.
    """

    user_ids: np.ndarray  # (U,) str
    offsets: np.ndarray  # (U + 1,) int64
    items: np.ndarray  # (N,) int32, index into Items
    timestamps: np.ndarray | None = None  # (N,) int64
    given_split: np.ndarray | None = (
        None  # (U,) int8: the publisher's split of this sequence, or of its first target
    )
    given_targets: np.ndarray | None = (
        None  # (N,) int8: the publisher's label of each target, see RawInteractions
    )

    @property
    def num_users(self) -> int:
        """U."""
        return len(self.user_ids)

    def of_user(self, user: int) -> np.ndarray:
        """All items of one user, oldest first, as item codes; as many as the user has interactions."""
        return self.items[self.offsets[user] : self.offsets[user + 1]]
