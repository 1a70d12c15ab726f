"""Modality consistency: whether reasoning from images and from captions names the same attributes. Needs no model."""

from __future__ import annotations

import math
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise

from mllmrec.cot.assess.form import UNSPACED
from mllmrec.reasoners import counting


def content_words(text: str) -> frozenset[str]:
    """The distinct content words of a text in lower case. In scripts without spaces, all pairs of neighbours.

    >>> sorted(content_words("a red star, 红色星"))
    ['red', 'star', '红色', '色星']
    """
    plain = unicodedata.normalize("NFKC", text)
    spaced = UNSPACED.sub(
        lambda run: " " + " ".join(left + right for left, right in pairwise(run.group())) + " ", plain
    )
    return frozenset(counting.content_words(spaced))


class Idf:
    """The weight of a word: ``idf(w) = ln((N + 1) / (n_w + 1))`` for a word in n_w of the catalogue's N captions.

    A word in every caption weighs 0. So does a word in no caption ("signals", "mostly", "user"): captions cannot
    confirm it as an attribute, so texts do not agree because they share a frame of such words.
    """

    def __init__(self, captions: Iterable[str]) -> None:
        documents = [content_words(caption) for caption in captions]
        counts = Counter(word for words in documents for word in words)
        self._weights = {word: math.log((len(documents) + 1) / (count + 1)) for word, count in counts.items()}

    def of(self, words: Iterable[str]) -> float:
        """The summed weight of distinct words."""
        # The order of a set of strings differs between processes; fsum gives the same sum in any order.
        return math.fsum(self._weights.get(word, 0.0) for word in words)


def jaccard(first: frozenset[str], second: frozenset[str], idf: Idf) -> float | None:
    """``idf(A ∩ B) / idf(A ∪ B)``; None if no word on either side weighs anything."""
    either = idf.of(first | second)
    return idf.of(first & second) / either if either else None


def overlap(named: frozenset[str], shown: frozenset[str], idf: Idf) -> float | None:
    """``idf(A ∩ B) / min(idf(A), idf(B))``; 0 if nothing is named, None if nothing is shown.

    If few words are named and many are shown, this is the share of the named words that are shown. Showing a further
    word never lowers it: numerator and denominator grow alike, or only the numerator grows.
    """
    if not idf.of(shown):
        return None
    smaller = min(idf.of(named), idf.of(shown))
    return idf.of(named & shown) / smaller if smaller else 0.0


def modality_scores(draft: str, refined: str, captions: Sequence[str], idf: Idf) -> dict[str, float | None]:
    """How far three things agree: reasoning from images, reasoning from captions, and the captions.

    Args:
        draft: the reasoning from the images; "" if there is none.
        refined: the reasoning from the captions.
        captions: the captions of the history's items; "" for items without a caption.
        idf: the word weights of the catalogue.

    Returns:
        ``draft_agreement``: `jaccard` of draft and refined, since both are texts of one kind. ``grounding``: `overlap`
        of refined and captions, since captions are many and the text is short. None if there is nothing to compare.
    """
    said = content_words(refined)
    shown = frozenset[str]().union(*map(content_words, captions))
    return {
        "draft_agreement": jaccard(content_words(draft), said, idf) if draft.strip() else None,
        "grounding": overlap(said, shown, idf),
    }
