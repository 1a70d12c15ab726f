"""Modality consistency: whether reasoning from images and from captions names the same attributes; no model."""

from __future__ import annotations

import math
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise

from mllmrec.cot import template
from mllmrec.cot.assess.form import UNSPACED


def content_words(text: str) -> frozenset[str]:
    """The distinct content words of a text in lower case; in scripts without spaces, all pairs of neighbours.

    >>> sorted(content_words("a red star, 红色星"))
    ['red', 'star', '红色', '色星']
    """
    plain = unicodedata.normalize("NFKC", text)
    spaced = UNSPACED.sub(
        lambda run: " " + " ".join(left + right for left, right in pairwise(run.group())) + " ", plain
    )
    return frozenset(template.content_words(spaced))


class Idf:
    """How much a word tells: ``idf(w) = ln((N + 1) / (n_w + 1))`` for a word in n_w of the catalogue's N captions.

    A word in every caption weighs 0. So does a word in none: it is no attribute that the captions could confirm
    ("signals", "mostly", "user"), and texts that share a frame of such words do not agree for it.
    """

    def __init__(self, captions: Iterable[str]) -> None:
        documents = [content_words(caption) for caption in captions]
        counts = Counter(word for words in documents for word in words)
        self._weights = {word: math.log((len(documents) + 1) / (count + 1)) for word, count in counts.items()}

    def of(self, words: Iterable[str]) -> float:
        """Summed weight of distinct words."""
        # The order of a set of strings differs between processes, and fsum does not depend on it.
        return math.fsum(self._weights.get(word, 0.0) for word in words)


def jaccard(first: frozenset[str], second: frozenset[str], idf: Idf) -> float | None:
    """``idf(A ∩ B) / idf(A ∪ B)``; None where neither has a word that weighs anything."""
    either = idf.of(first | second)
    return idf.of(first & second) / either if either else None


def overlap(named: frozenset[str], shown: frozenset[str], idf: Idf) -> float | None:
    """``idf(A ∩ B) / min(idf(A), idf(B))``; 0 where nothing is named, None where nothing is shown.

    With few words named and many shown it is the share of what is named that is shown. A further word that is
    shown never lowers it: numerator and denominator grow alike, or the numerator alone.
    """
    if not idf.of(shown):
        return None
    smaller = min(idf.of(named), idf.of(shown))
    return idf.of(named & shown) / smaller if smaller else 0.0


def modality_scores(draft: str, refined: str, captions: Sequence[str], idf: Idf) -> dict[str, float | None]:
    """How far the reasoning from images, that from captions, and the captions agree.

    Args:
        draft: the reasoning from the images; "" where there is none.
        refined: the reasoning from the captions.
        captions: of the history's items; "" for those without one.
        idf: of the catalogue.

    Returns:
        ``draft_agreement``, `jaccard` of draft and refined, which are texts of one kind; ``grounding``, `overlap`
        of refined with the captions, which are many where the text is short. None where there is nothing to compare.
    """
    said = content_words(refined)
    shown = frozenset[str]().union(*map(content_words, captions))
    return {
        "draft_agreement": jaccard(content_words(draft), said, idf) if draft.strip() else None,
        "grounding": overlap(said, shown, idf),
    }
