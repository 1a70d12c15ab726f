"""How items are called in a step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mllmrec.prompts.builder import PromptBuilder
from mllmrec.prompts.examples import Example
from mllmrec.prompts.naming import Naming
from mllmrec.rl.batch import Question
from mllmrec.rollout.base import Histories


@dataclass(frozen=True)
class Names:
    """How items are called, and who writes prompts about them."""

    ids: Sequence[str]  # (I,)
    titles: Sequence[str]  # (I,) as the prompts show them
    naming: Naming = Naming()
    histories: Histories | None = None  # for parts that show other histories

    @classmethod
    def of(cls, builder: PromptBuilder, histories: Histories | None = None) -> Names:
        """As a builder calls the items."""
        return cls(builder.ids, builder.titles, builder.naming, histories)

    def question(self, example: Example) -> Question:
        """What a reward needs to know of an example."""
        return Question(
            self.ids[example.target],
            {self.ids[item]: self.titles[item] for item in example.candidates.tolist()},
            example.places,
            self.naming,
        )
