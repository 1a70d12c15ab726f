"""What every source of reasoning does: a sample's key in, a text or nothing out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from mllmrec.reasoners.told import NOTHING

TRAINING = "train"  # the split whose prompts may carry reasoning that was chosen with the target in view


@dataclass(frozen=True)
class CotKey:
    """Everything that names a sample: reasoning is joined by the whole key.

    A sample id alone is unique within its split only: a user of a published split may have a sequence in each of its
    files. ``target_id`` is there to find recorded reasoning, never to make any.
    """

    user_id: str
    history_ids: tuple[str, ...]  # oldest first, as shown in the prompt
    target_id: str
    sample_id: str = ""
    split: str = TRAINING  # or validation, or test


class CotPolicy(ABC):
    """Gives the reasoning that a training prompt carries."""

    # What the constructor takes beside its settings: captions, details, titles (by item id), pipeline, seed.
    wants: ClassVar[tuple[str, ...]] = ()

    @property
    def told(self) -> str:
        """What the writers of the reasoning knew beside the history: none, unknown or target (`TOLD`)."""
        return NOTHING

    def make(self, keys: Sequence[CotKey]) -> None:
        """Make the reasoning of these samples, if it has to be made, before any of it is asked for."""
        return

    @abstractmethod
    def reasoning(self, key: CotKey) -> str | None:
        """The reasoning of one sample; None where there is none."""

    def supply(self, keys: Iterable[CotKey], wanted: int) -> list[int]:
        """Places, ascending, of samples that have reasoning; what is missing of it is made here.

        Samples are looked at one after the other, and no more of them than it takes to find ``wanted``. There are
        fewer places where too few samples have reasoning, and may be more where the policy decides about many at once.
        """
        places: list[int] = []
        if wanted > 0:
            for place, key in enumerate(keys):
                if self.reasoning(key):
                    places.append(place)
                if len(places) == wanted:
                    break
        return places

    def confidences(self, keys: Sequence[CotKey]) -> list[float | None] | None:
        """The confidence in [0, 1] of each sample's reasoning; None where this policy knows of none at all."""
        return None

    def report(self) -> dict[str, dict[str, int]]:
        """Counts of each stage that made reasoning, by its name; empty where none was made."""
        return {}

    def coverage(self, keys: Iterable[CotKey]) -> dict[str, int]:
        """How many samples have reasoning, and how many have none for which reason; zero counts are left out."""
        return dict(Counter("matched" if self.reasoning(key) else "no_text" for key in keys))
