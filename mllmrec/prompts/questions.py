"""Yes-or-no questions about one candidate at a time, as in TALLRec (Bao et al. 2023, arXiv 2305.00447)."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace

from mllmrec.prompts.builder import PromptBuilder
from mllmrec.prompts.wording import load_wording


@dataclass(frozen=True)
class QuestionWording:
    """How is asked: a YAML file with these keys; history and items are worded by the prompt's template."""

    candidate: str  # {items}, of which there is one, and {domain}
    question: str  # {domain}
    positive: str  # the answer where the item comes next, such as Yes
    negative: str  # the other, such as No


_PLACEHOLDERS = {"candidate": {"items", "domain"}, "question": {"domain"}}


def load_question_wording(name: str) -> QuestionWording:
    """A shipped wording by name, or a YAML file by path.

    Raises:
        UserError: no such wording, or its keys or placeholders are not those of `QuestionWording`.
    """
    return load_wording(
        QuestionWording, _PLACEHOLDERS, "prompt.question", name, "mllmrec.prompts", "questions"
    )


class Questions:
    """Asks of histories whether an item comes next."""

    def __init__(self, builder: PromptBuilder, wording: QuestionWording, history_length: int) -> None:
        """Take the wording; ``builder`` then is one of questions.

        Args:
            builder: of the prompts that list candidates; items are shown as there.
            wording: of the question.
            history_length: items of history shown, the latest.
        """
        self.builder = copy.copy(builder)
        self.builder.template = replace(
            builder.template, candidates=wording.candidate, closing=wording.question
        )
        self.positive, self.negative = wording.positive, wording.negative
        self.history_length = history_length

    def prompt(self, history: Sequence[int], item: int) -> str:
        """The user message.

        Args:
            history: item codes, oldest first; it may be longer than what is shown.
            item: the code of the item in question.
        """
        return self.builder.prompt(list(history)[-self.history_length :], [item])
