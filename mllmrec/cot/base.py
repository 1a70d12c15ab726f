"""The interface of every source of reasoning: a sample's key in, a text or nothing out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import ClassVar

from mllmrec.prompts.keys import TRAINING, CotKey
from mllmrec.reasoners.told import NOTHING

__all__ = ["TRAINING", "CotKey", "CotPolicy"]


class CotPolicy(ABC):
    """Gives the reasoning that a training prompt carries."""

    # Constructor arguments besides the settings: captions, details, titles (by item id), pipeline, seed,
    # open_judge (opens a finished run as `mllmrec.cot.assess.reference.Judge`).
    wants: ClassVar[tuple[str, ...]] = ()
    gives_confidence: ClassVar[bool] = False  # whether samples can be chosen by confidence

    @property
    def told(self) -> str:
        """What the writers of the reasoning knew besides the history: none, unknown or target (`TOLD`)."""
        return NOTHING

    def make(self, keys: Sequence[CotKey]) -> None:
        """Make the reasoning of these samples, if it has to be made, before it is asked for."""
        return

    @abstractmethod
    def reasoning(self, key: CotKey) -> str | None:
        """The reasoning of one sample; None if there is none."""

    def closest(self, key: CotKey, candidates: Sequence[str]) -> list[int]:
        """The columns of the candidates that the sample's reasoning names if it is learnt, in this order; by default none.

        Args:
            key: the sample. Its target is not told apart from other candidates.
            candidates: (C,) the ids of the candidates that the prompt lists.
        """
        return []

    def supply(self, keys: Iterable[CotKey], wanted: int) -> list[int]:
        """Places of samples that have reasoning, ascending. Missing reasoning is made here.

        Samples are looked at one after the other, until ``wanted`` with reasoning are found. The result has fewer
        places if too few samples have reasoning, and may have more if the policy decides about many at once.
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
        """The confidence in [0, 1] of each sample's reasoning; None if this policy knows no confidences at all."""
        return None

    def report(self) -> dict[str, dict[str, int]]:
        """Counts of each stage that made reasoning, by the stage's name; empty if no stage did."""
        return {}

    def coverage(self, keys: Iterable[CotKey]) -> dict[str, int]:
        """How many samples have reasoning, and how many have none, by reason. Zero counts are left out."""
        return dict(Counter("matched" if self.reasoning(key) else "no_text" for key in keys))
