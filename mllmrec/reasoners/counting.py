"""Reasoning made by counting words in the history's texts, and the words of a text. It uses no model."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

_WORD = re.compile(r"[^\W\d_][\w'-]+")
_EMPTY_WORDS = frozenset((
    "a", "an", "and", "are", "as", "at", "by", "for", "from", "has", "have", "in", "into", "is", "it", "its", "like",
    "looks", "of", "on", "or", "picture", "that", "the", "this", "to", "with",
))  # fmt: skip
_MOST_WORDS = 3
_LONGEST_WORD = 24
_LONGEST_TAG = 3  # words


def template_reasoning(
    history_texts: Sequence[str], split: Callable[[str], dict[str, None]] | None = None
) -> str:
    """Three steps from the texts of a history, oldest first; "" if they hold no words.

    ``split`` gives the words of a text, by default `content_words`; with the default the result has at most 40 words.
    A word counts once per item. Words in two or more items are named, most frequent first; equally frequent words are
    ordered by how recently they were seen, then by the alphabet. If no word repeats, the latest item's words are used.
    """
    counts, named = _frequent(history_texts, split or content_words)
    if not named:
        return ""
    listed = join_words(named)
    if counts[named[0]] == 1:
        return f"Signals: nothing repeats; the latest item is {listed}. Preference: open. Look for: {listed}."
    signals = ", ".join(f"{word} in {counts[word]} of {len(history_texts)}" for word in named)
    return f"Signals: {signals}. Preference: mostly {named[0]}. Look for: {listed}."


def frequent_words(history_texts: Sequence[str], most: int = _MOST_WORDS) -> list[str]:
    """The words that `template_reasoning` would name if it named up to ``most``; empty if the texts hold no words."""
    return _frequent(history_texts, content_words, most)[1]


def word_counts(texts: Iterable[str]) -> Counter[str]:
    """In how many texts each content word occurs."""
    return Counter(word for text in texts for word in content_words(text))


def _frequent(
    texts: Sequence[str], split: Callable[[str], dict[str, None]], most: int = _MOST_WORDS
) -> tuple[dict[str, int], list[str]]:
    """How many texts hold each word, and the words to be named."""
    documents = [words for words in map(split, texts) if words]
    counts: dict[str, int] = {}
    latest: dict[str, int] = {}
    for position, words in enumerate(documents):
        for word in words:
            counts[word] = counts.get(word, 0) + 1
            latest[word] = position
    ordered = sorted((word for word in counts if counts[word] > 1), key=lambda w: (-counts[w], -latest[w], w))
    return counts, (ordered or list(documents[-1] if documents else ()))[:most]


def content_words(text: str) -> dict[str, None]:
    """The distinct content words of a text in lower case, in order."""
    words = (match.group().lower() for match in _WORD.finditer(text))
    return dict.fromkeys(word for word in words if word not in _EMPTY_WORDS and len(word) <= _LONGEST_WORD)


def tags_or_words(text: str) -> dict[str, None]:
    """The distinct tags of a list such as ``dark blue, busy, vertical lines``; for other texts the content words.

    A list has two or more parts between commas, each with at most three words.
    """
    parts = text.split(",")
    if len(parts) < 2 or any(len(part.split()) > _LONGEST_TAG for part in parts):
        return content_words(text)
    words = [[match.group().lower() for match in _WORD.finditer(part)] for part in parts]
    return dict.fromkeys(
        " ".join(part)
        for part in words
        if not _EMPTY_WORDS.issuperset(part) and all(len(word) <= _LONGEST_WORD for word in part)
    )


def join_words(words: Sequence[str]) -> str:
    """``a, b and c``."""
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1]
