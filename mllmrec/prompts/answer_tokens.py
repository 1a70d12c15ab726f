"""The tokens of every item's answer, encoded once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from mllmrec.prompts.builder import PromptBuilder

_BLOCK = 10_000


class AnswerTokens:
    """Answers of all I items as one flat array of tokens; each ends with the end token."""

    def __init__(
        self,
        builder: PromptBuilder,
        encode: Callable[[Sequence[str]], list[list[int]]],
        end_token: int,
        *,
        opening: bool = False,
    ) -> None:
        """Encode every answer.

        Args:
            builder: writes the answers.
            encode: texts → token ids.
            end_token: the id that ends an answer.
            opening: take the beginning of a ranked list that names the item first, up to the next place, instead of an
                answer that names only this item. It has no end token.
        """
        self.end_token = end_token
        text, end = (builder.opening, []) if opening else (builder.answer, [end_token])
        pieces: list[np.ndarray] = []
        lengths = np.empty(len(builder.ids), dtype=np.int64)
        for start in range(0, len(builder.ids), _BLOCK):
            items = range(start, min(start + _BLOCK, len(builder.ids)))
            for item, tokens in zip(items, encode([text(item) for item in items]), strict=True):
                pieces.append(np.array([*tokens, *end], dtype=np.int32))
                lengths[item] = len(pieces[-1])
        self._tokens = np.concatenate(pieces)
        self._offsets = np.concatenate([[0], np.cumsum(lengths)])
        self.longest = int(lengths.max())

    def of(self, item: int) -> list[int]:
        """Tokens of one item's answer."""
        return self._tokens[self._offsets[item] : self._offsets[item + 1]].tolist()

    def first_tokens(self) -> np.ndarray:
        """(I,) first token of every answer."""
        return self._tokens[self._offsets[:-1]]
