"""The interface of rewards: what a reward reads and what it returns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Question:
    """What a reward needs to know to judge a completion."""

    target_id: str
    titles: Mapping[str, str]  # candidate id -> title as the prompt shows it


class Reward(ABC):
    """Scores one completion; ``parts`` names the numbers logged beside the total."""

    parts: tuple[str, ...]
    needs_title: bool = False  # whether an answer without a title can never be right

    @property
    @abstractmethod
    def bounds(self) -> tuple[float, float]:
        """The lowest and the highest possible total."""

    @abstractmethod
    def __call__(self, completion: str, question: Question) -> dict[str, float]:
        """The total under ``"reward"`` and every part under its own name."""
