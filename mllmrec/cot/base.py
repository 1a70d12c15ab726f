"""What every source of reasoning does: a sample's key in, a text or nothing out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class CotKey:
    """Who a sample belongs to. ``target_id`` is there to find recorded reasoning, never to make any."""

    user_id: str
    history_ids: tuple[str, ...]  # oldest first, as shown in the prompt
    target_id: str
    sample_id: str = ""


class CotPolicy(ABC):
    """Gives the reasoning that a training prompt carries."""

    # What of the prepared data the constructor takes: captions, details, titles (by item id), pipeline.
    wants: ClassVar[tuple[str, ...]] = ()

    def make(self, keys: Sequence[CotKey]) -> None:
        """Make the reasoning of these samples, if it has to be made, before any of it is asked for."""
        return

    @abstractmethod
    def reasoning(self, key: CotKey) -> str | None:
        """The reasoning of one sample; None where there is none."""

    def confidences(self) -> Mapping[str, float | None] | None:
        """Sample id → confidence in [0, 1] of what was made; None where this policy knows of none."""
        return None

    def report(self) -> dict[str, dict[str, int]]:
        """Counts of each stage that made reasoning, by its name; empty where none was made."""
        return {}

    def coverage(self, keys: Iterable[CotKey]) -> dict[str, int]:
        """How many samples have reasoning, and how many have none for which reason; zero counts are left out."""
        return dict(Counter("matched" if self.reasoning(key) else "no_text" for key in keys))
