"""The interface of those who write experience: compared groups of answers in, operations on the library out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from mllmrec.experience.library import Library, Operation
from mllmrec.reasoners.base import HistoryItem
from mllmrec.rl.parts import Part


@dataclass(frozen=True)
class Answer:
    """One answer of a group."""

    text: str  # all that the policy wrote
    item: HistoryItem | None  # the first candidate that it names; None if it names none


@dataclass(frozen=True)
class Contrast:
    """A group whose rewards differ."""

    sample_id: str
    user_id: str
    history: tuple[HistoryItem, ...]  # as the prompt shows it, oldest first
    winners: tuple[Answer, ...]  # rewards above the group's mean
    losers: tuple[Answer, ...]  # rewards below it


class ExperienceWriter(Part, ABC):
    """Says how the library should change. It never sees a prompt, a test user or a weight."""

    @abstractmethod
    def operations(self, contrasts: Sequence[Contrast], library: Library, domain: str) -> list[Operation]:
        """The operations that follow from a step; none about a key twice.

        Args:
            contrasts: the groups of the step whose rewards differ, at least one.
            library: as it is now.
            domain: what the items are called, such as ``movie``.
        """
