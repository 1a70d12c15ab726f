"""A trie over the token sequences of the allowed answers: it says which tokens a constrained rollout may say next.

The trie holds no position. Callers walk its nodes, so one trie serves any number of rows in any order.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mllmrec.engine.base import ChoiceSets


class UnknownPrefix(KeyError):
    """A token sequence that no allowed answer begins with. Constraints never fall back to the whole vocabulary."""


class TrieNode:
    """One prefix. ``children`` maps each possible next token to its node; a leaf ends an answer."""

    __slots__ = ("answer", "children")

    def __init__(self) -> None:
        self.children: dict[int, TrieNode] = {}
        self.answer: int | None = None  # index of the answer that ends here

    def step(self, token: int) -> TrieNode:
        """The node after ``token``.

        Raises:
            UnknownPrefix: the token is not allowed here.
        """
        try:
            return self.children[token]
        except KeyError:
            raise UnknownPrefix(
                f"token {token} continues no allowed answer; allowed: {sorted(self.children)[:8]}"
            ) from None


class AnswerTrie:
    """The trie of ``answers`` (token ids, each ending in the end-of-sequence token)."""

    def __init__(self, answers: Sequence[Sequence[int]]) -> None:
        """Build the trie.

        Raises:
            ValueError: there are no answers, one is empty, two are equal, or one begins another.
        """
        if not answers:
            raise ValueError("a trie needs at least one answer")
        self.root = TrieNode()
        for index, answer in enumerate(answers):
            if not answer:
                raise ValueError(f"answer {index} has no tokens")
            node = self.root
            for token in answer:
                if node.answer is not None:
                    raise ValueError(f"answer {node.answer} is equal to answer {index} or begins it")
                node = node.children.setdefault(int(token), TrieNode())
            if node.answer is not None or node.children:
                raise ValueError(f"answer {index} is equal to another answer or begins it")
            node.answer = index

    def walk(self, prefix: Sequence[int]) -> TrieNode:
        """The node of a prefix.

        Raises:
            UnknownPrefix: no answer begins with it.
        """
        node = self.root
        for token in prefix:
            node = node.step(token)
        return node

    def allowed(self, prefix: Sequence[int]) -> list[int]:
        """The tokens that may follow a prefix, ascending.

        Raises:
            UnknownPrefix: no answer begins with the prefix.
        """
        return sorted(self.walk(prefix).children)


def choice_sets(tries: Sequence[AnswerTrie], paths: Sequence[Sequence[int]]) -> tuple[ChoiceSets, Tensor]:
    """The tokens that compete at each place of each path, and the places that are real choices.

    Args:
        tries: the trie of each of the R paths. Places in one trie that share a prefix share a set.
        paths: token ids.

    Returns:
        The sets, and (R, T) bool; T is the longest path.

    Raises:
        UnknownPrefix: a path is not an answer of its trie.
    """
    width = max(map(len, paths))
    set_of = torch.full((len(paths), width), -1)
    decisions = torch.zeros(len(paths), width, dtype=torch.bool)
    numbers: dict[TrieNode, int] = {}
    for row, (trie, path) in enumerate(zip(tries, paths, strict=True)):
        node, sets, open_places = trie.root, [], []
        for token in path:
            sets.append(numbers.setdefault(node, len(numbers)))
            open_places.append(len(node.children) > 1)
            node = node.step(token)
        set_of[row, : len(path)] = torch.tensor(sets)
        decisions[row, : len(path)] = torch.tensor(open_places)
    tokens = torch.full((len(numbers), max(len(node.children) for node in numbers)), -1)
    for node, number in numbers.items():
        tokens[number, : len(node.children)] = torch.tensor(sorted(node.children))
    return ChoiceSets(set_of, tokens), decisions


def choice_sets_behind(
    tries: Sequence[AnswerTrie], paths: Sequence[Sequence[int]], begins: Sequence[int], width: int
) -> tuple[ChoiceSets, Tensor]:
    """`choice_sets` of answers that stand behind something else; there the whole vocabulary competes.

    Args:
        tries: the trie of each of the R answers.
        paths: their token ids.
        begins: where each answer begins in its row.
        width: T, of the rows.

    Returns:
        The sets, and (R, T) bool: the real choices within answers.
    """
    sets, open_places = choice_sets(tries, paths)
    among = torch.full((len(paths), width), -1)
    decisions = torch.zeros(len(paths), width, dtype=torch.bool)
    for row, (path, begin) in enumerate(zip(paths, begins, strict=True)):
        among[row, begin : begin + len(path)] = sets.set_of[row, : len(path)]
        decisions[row, begin : begin + len(path)] = open_places[row, : len(path)]
    return ChoiceSets(among, sets.tokens), decisions
