"""The tokens of every item's answer, encoded once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Literal

import numpy as np

from mllmrec.prompts.answers import place_text
from mllmrec.prompts.builder import PromptBuilder
from mllmrec.prompts.naming import LETTERS

_BLOCK = 10_000
Form = Literal["answer", "line", "opening"]


class AnswerTokens:
    """Answers of all I items as one flat array of tokens; each ends with the end token."""

    def __init__(
        self,
        builder: PromptBuilder,
        encode: Callable[[Sequence[str]], list[list[int]]],
        end_token: int,
        *,
        form: Form = "answer",
    ) -> None:
        """Encode every answer.

        Args:
            builder: writes the answers.
            encode: texts → token ids.
            end_token: the id that ends an answer.
            form: ``answer`` names only this item. ``line`` is its line in a ranked list, without the place, and ``opening``
                the beginning of a list that names it first, up to the second place; these have no end token.
        """
        self.end_token = end_token
        text = getattr(builder, form)
        end = [end_token] if form == "answer" else []
        self._builder, self._encode, self._text, self._end = builder, encode, text, end
        naming = builder.naming
        self.by_place = naming.by_place  # whether an item's answer depends on its place in the prompt's list
        # Whether what follows an answer says nothing about the item.
        self.ends_itself = naming.ends_itself or form == "opening"
        # Answers by place are kept as those of a list's first candidate.
        first = [0] if self.by_place else []
        pieces: list[np.ndarray] = []
        lengths = np.empty(len(builder.ids), dtype=np.int64)
        for start in range(0, len(builder.ids), _BLOCK):
            items = range(start, min(start + _BLOCK, len(builder.ids)))
            for item, tokens in zip(items, encode([text(item, *first) for item in items]), strict=True):
                pieces.append(np.array([*tokens, *end], dtype=np.int32))
                lengths[item] = len(pieces[-1])
        self._tokens = np.concatenate(pieces)
        self._offsets = np.concatenate([[0], np.cumsum(lengths)])
        self.longest = int(lengths.max())
        if self.by_place:
            self.longest += self._longest_name()

    @cached_property
    def lines(self) -> AnswerTokens:
        """The lines of ranked lists."""
        return AnswerTokens(self._builder, self._encode, self.end_token, form="line")

    @cached_property
    def openings(self) -> AnswerTokens:
        """How lists begin that name the item first."""
        return AnswerTokens(self._builder, self._encode, self.end_token, form="opening")

    @cached_property
    def leads(self) -> list[list[int]]:
        """What stands in front of each item of a ranked list."""
        return self._encode([place_text(place) for place in range(1, self._builder.places + 1)])

    @property
    def longest_list(self) -> int:
        """Tokens of the longest ranked list, with the end token."""
        return sum(map(len, self.leads)) + len(self.leads) * self.lines.longest + 1

    def among(self, candidates: Sequence[int], items: Sequence[int] | None = None) -> list[list[int]]:
        """Tokens of the answers to a prompt that lists these candidates in this order.

        Args:
            candidates: item codes.
            items: the candidates whose answers are wanted; None for all.
        """
        wanted = candidates if items is None else items
        if not self.by_place:
            return [self.of(item) for item in wanted]
        column_of = {item: column for column, item in enumerate(candidates)}
        tokens = self._encode([self._text(item, column_of[item]) for item in wanted])
        return [[*row, *self._end] for row in tokens]

    def _longest_name(self) -> int:
        """Tokens by which the name of a later candidate may be longer than that of the first."""
        naming, last = self._builder.naming, len(self._builder.ids) - 1
        columns = [0, min(last, len(LETTERS) - 1) if naming.label == "letter" else last]
        first, longest = map(len, self._encode([naming.name("", column) for column in columns]))
        return max(0, longest - first)

    def of(self, item: int) -> list[int]:
        """Tokens of one item's answer; of answers by place, those where it is the first candidate of its list."""
        return self._tokens[self._offsets[item] : self._offsets[item + 1]].tolist()

    def first_tokens(self) -> np.ndarray:
        """(I,) first token of every answer."""
        return self._tokens[self._offsets[:-1]]
