"""The interface of rewards and of shapers, which change a reward afterwards."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from mllmrec.rl.batch import Question, RolloutBatch
from mllmrec.rl.parts import Part
from mllmrec.text_encoders.described import DescribedItems

__all__ = ["Question", "Reward", "Rewards", "Shaper", "TextReward"]


@dataclass(frozen=True)
class Rewards:
    """The rewards of R completions."""

    total: Tensor  # (R,) float32, on the CPU
    parts: Mapping[str, Tensor] = field(default_factory=dict)  # part -> (R,), logged beside the total
    places: Tensor | None = None  # (R, K) by segment, for advantages that tell segments apart


class Reward(Part, ABC):
    """Judges the completions of a batch; ``parts`` names the numbers logged beside the total."""

    parts: tuple[str, ...]
    needs_title: bool = False  # whether an answer without a title can never be right
    pays_places: bool = False  # whether each place of a ranked list has a reward of its own
    needs_ids: bool = False  # whether an answer that does not name items by their ids can never be right

    @property
    @abstractmethod
    def bounds(self) -> tuple[float, float]:
        """The lowest and the highest possible total."""

    def meet_items(self, items: DescribedItems) -> None:
        """Get to know the catalogue: called before training, so that nothing is refused later, and before each phase.

        Raises:
            UserError: the reward cannot work with these items.
        """

    @abstractmethod
    def __call__(self, batch: RolloutBatch) -> Rewards:
        """The rewards of all rows."""


class TextReward(Reward):
    """A reward that looks at one completion at a time and at nothing but its text."""

    @abstractmethod
    def judge(self, completion: str, question: Question) -> dict[str, float]:
        """The total under ``"reward"`` and every part under its own name."""

    def __call__(self, batch: RolloutBatch) -> Rewards:
        """`judge` of each row."""
        questions = [batch.questions[place] for place in batch.example_of.tolist()]
        found = [self.judge(text, asked) for text, asked in zip(batch.texts, questions, strict=True)]
        return Rewards(
            torch.tensor([one["reward"] for one in found]),
            {name: torch.tensor([one[name] for one in found]) for name in self.parts},
        )


class Shaper(Part, ABC):
    """Changes the rewards of a judged batch; several are applied in order. ``parts`` names what it adds to the log."""

    parts: tuple[str, ...] = ()
    needs_parts: bool = False  # whether it reads the parts that its ``weights`` name
    needs_order: bool = (
        False  # whether it reads the stops of rows, which a rollout gives that ``gives_order``
    )
    shapes_length: bool = False  # whether it pays for the length of answers, as one shaper of a phase may

    @abstractmethod
    def __call__(self, batch: RolloutBatch) -> Rewards:
        """The new total of all rows, and this shaper's own parts."""

    def bounds(self, low: float, high: float) -> tuple[float, float]:
        """The lowest and the highest total after it, given those before it."""
        return low, high


def with_rewards(batch: RolloutBatch, rewards: Rewards) -> RolloutBatch:
    """The batch with these totals, and with their parts beside those that it has."""
    places = batch.place_rewards if rewards.places is None else rewards.places
    return replace(batch, rewards=rewards.total, place_rewards=places, parts={**batch.parts, **rewards.parts})
