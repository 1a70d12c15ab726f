"""What every source of reasoning does: a sample's key in, a text or nothing out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class CotKey:
    """Who a sample belongs to. ``target_id`` is there to find recorded reasoning, never to make any."""

    user_id: str
    history_ids: tuple[str, ...]  # oldest first, as shown in the prompt
    target_id: str


class CotPolicy(ABC):
    """Gives the reasoning that a training prompt carries."""

    reads_item_texts: ClassVar[bool]  # whether the constructor takes captions, details and titles

    @abstractmethod
    def reasoning(self, key: CotKey) -> str | None:
        """The reasoning of one sample; None where there is none."""

    def coverage(self, keys: Iterable[CotKey]) -> dict[str, int]:
        """How many samples have reasoning, and how many have none for which reason; zero counts are left out."""
        return dict(Counter("matched" if self.reasoning(key) else "no_text" for key in keys))
