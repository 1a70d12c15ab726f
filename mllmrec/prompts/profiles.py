"""The second of two prompts: it shows what the policy wrote about a user in the place of the user's history."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from mllmrec.prompts.builder import PromptBuilder
from mllmrec.prompts.markup import THINK_CLOSE, THINK_OPEN


@dataclass(frozen=True)
class SecondPrompt:
    """Asks for an answer after a profile."""

    builder: PromptBuilder
    candidates: np.ndarray  # (C,) item codes
    lists: bool = True  # whether it lists the candidates

    def about(self, profile: str) -> str:
        """The prompt.

        Args:
            profile: foreign text; "" for none.
        """
        return self.builder.prompt_about(profile, self.candidates.tolist() if self.lists else None)

    def listing(self, candidates: np.ndarray) -> SecondPrompt:
        """The same about other candidates, (C,) item codes."""
        return replace(self, candidates=candidates)


def profile_text(reasoning: str) -> str:
    """A completion that is only a profile; `written_profile` reads it."""
    return f"{THINK_OPEN}\n{reasoning}\n{THINK_CLOSE}"


def written_profile(completion: str) -> str:
    """The profile in what a policy wrote: all of it without the tags around it."""
    return completion.removeprefix(THINK_OPEN).split(THINK_CLOSE)[0].strip()
