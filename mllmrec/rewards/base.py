"""What a reward sees and gives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Question:
    """What a completion is judged against."""

    target_id: str
    titles: Mapping[str, str]  # candidate id -> title as the prompt shows it


class Reward(ABC):
    """Scores one completion; ``parts`` names the numbers that are logged beside the total."""

    parts: tuple[str, ...]
    needs_title: bool = False  # whether an answer without a title can never be right

    @property
    @abstractmethod
    def bounds(self) -> tuple[float, float]:
        """The lowest and the highest total there can be."""

    @abstractmethod
    def __call__(self, completion: str, question: Question) -> dict[str, float]:
        """The total under ``"reward"`` and every part under its own name."""
