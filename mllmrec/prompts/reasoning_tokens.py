"""The tokens around the reasoning of a completion, and where reasoning ends in tokens that a policy says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mllmrec.prompts.markup import THINK_CLOSE, THINK_OPEN

# A closing tag that a policy spells in its own way is looked for in so many last tokens.
_TAIL = len(THINK_CLOSE) + 1

Encode = Callable[[Sequence[str]], list[list[int]]]
Decode = Callable[[Sequence[Sequence[int]]], list[str]]


@dataclass(frozen=True)
class ReasoningTokens:
    """Reasoning is written as ``opening``, its own tokens, ``closing`` and ``after``; then comes the answer.

    Each part is encoded by itself. So a completion that a policy learns, and one in which some parts are forced, consist of
    the same tokens, whatever a tokenizer would merge across their borders.
    """

    opening: list[int]
    closing: list[int]
    after: list[int]
    closers: frozenset[int]  # tokens that may complete a closing tag
    decode: Decode

    @classmethod
    def of(cls, encode: Encode, decode: Decode, vocabulary: int) -> ReasoningTokens:
        """The tokens of a tokenizer.

        Args:
            encode: texts → token ids, without special tokens.
            decode: token ids → texts.
            vocabulary: number of token ids.
        """
        opening, closing, after = encode([f"{THINK_OPEN}\n", f"\n{THINK_CLOSE}", "\n"])
        texts = decode([[token] for token in range(vocabulary)])
        closers = frozenset(token for token, text in enumerate(texts) if THINK_CLOSE[-1] in text)
        return cls(opening, closing, after, closers, decode)

    @property
    def around(self) -> int:
        """Number of tokens around the reasoning."""
        return len(self.opening) + len(self.closing) + len(self.after)

    def closed(self, said: Sequence[Sequence[int]]) -> list[bool]:
        """Whether each row's last token completes a closing tag."""
        asked = [row for row, tokens in enumerate(said) if tokens and tokens[-1] in self.closers]
        found = [False] * len(said)
        if not asked:  # some versions of transformers decode no row to one empty text
            return found
        for row, text in zip(asked, self.decode([said[row][-_TAIL:] for row in asked]), strict=True):
            found[row] = THINK_CLOSE in text
        return found

    def until_closed(self, drawn: Sequence[int], end: int) -> tuple[list[int], bool]:
        """What stands before the end token or up to a closing tag, whichever comes first, and whether it is the tag."""
        for place, token in enumerate(drawn):
            if token == end:
                return list(drawn[:place]), False
            if token in self.closers and self.closed([drawn[: place + 1]])[0]:
                return list(drawn[: place + 1]), True
        return list(drawn), False

    def thoughts(self, said: Sequence[int]) -> int:
        """How many tokens stand before the closing tag, which the last token of ``said`` completes."""
        first = max(len(said) - _TAIL, 0)
        texts = self.decode([said[place:] for place in range(first, len(said))])
        return first + max(place for place, text in enumerate(texts) if THINK_CLOSE in text)

    def rest(self, said: Sequence[int], closed: bool) -> list[int]:
        """The tokens between what was said of the reasoning and the answer."""
        if not closed:
            return [*self.closing, *self.after]
        (text,) = self.decode([said[-_TAIL:]])
        return [] if text.endswith("\n") else self.after

    def profile(self, reasoning: Sequence[int]) -> list[int]:
        """A completion that is only reasoning."""
        return [*self.opening, *reasoning, *self.closing]

    def whole(self, reasoning: Sequence[int], answer: Sequence[int]) -> list[int]:
        """A completion."""
        return [*self.opening, *reasoning, *self.closing, *self.after, *answer]
