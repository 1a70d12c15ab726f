"""Yes-or-no questions about one candidate at a time, as in TALLRec (Bao et al. 2023, arXiv 2305.00447)."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace

from mllmrec.prompts.builder import PromptBuilder
from mllmrec.prompts.wording import load_wording


@dataclass(frozen=True)
class QuestionWording:
    """The wording of a question, from a YAML file with these keys. The prompt template words history and items."""

    candidate: str  # {items} (always a single item) and {domain}
    question: str  # {domain}
    positive: str  # the answer if the item comes next, such as Yes
    negative: str  # the answer if it does not, such as No


_PLACEHOLDERS = {"candidate": {"items", "domain"}, "question": {"domain"}}


def load_question_wording(name: str) -> QuestionWording:
    """A shipped wording by name, or a YAML file by path.

    Raises:
        UserError: there is no such wording, or its keys or placeholders are not those of `QuestionWording`.
    """
    return load_wording(
        QuestionWording, _PLACEHOLDERS, "prompt.question", name, "mllmrec.prompts", "questions"
    )


class Questions:
    """Asks whether an item comes next after a history."""

    def __init__(self, builder: PromptBuilder, wording: QuestionWording, history_length: int) -> None:
        """Combine the wording with the builder, which then builds questions.

        Args:
            builder: builds the prompts that list candidates; questions show items in the same way.
            wording: the wording of the question.
            history_length: how many items of history are shown: the latest.
        """
        self.builder = copy.copy(builder)
        self.builder.template = replace(
            builder.template, candidates=wording.candidate, closing=wording.question
        )
        if builder.naming.by_place:  # a single candidate has no place
            self.builder.naming = replace(builder.naming, label="none")
        self.positive, self.negative = wording.positive, wording.negative
        self.history_length = history_length

    def prompt(self, history: Sequence[int], item: int) -> str:
        """The user message.

        Args:
            history: item codes, oldest first; only its latest items are shown.
            item: the code of the item in question.
        """
        return self.builder.prompt(list(history)[-self.history_length :], [item])
