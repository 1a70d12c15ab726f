"""A reasoner that counts words in the history's captions. It uses no model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from mllmrec.cache import source_fingerprint
from mllmrec.prompts import markup
from mllmrec.prompts.markup import neutral
from mllmrec.reasoners import counting
from mllmrec.reasoners.base import Reasoner, Request, Written
from mllmrec.reasoners.counting import content_words, join_words, tags_or_words, template_reasoning

_MOST_WORDS = 3


class TemplateReasoner(Reasoner):
    """Three labelled steps, ``Signals: … Preference: … Look for: …``, from the history alone.

    Each item gives its caption, or its title if it has no caption. A list of tags is read tag by tag. A draft is
    `template_reasoning`; a refinement is `supported_reasoning` over the words of the draft. The wording is not used.
    In the ablation that tells the reasoner the target, it looks for exactly the target, like a model that is asked to
    explain a choice that it knows.
    """

    free = True

    def identity(self) -> dict[str, object]:
        """The version of the rules; there are no settings."""
        rules = source_fingerprint(__file__, counting.__file__, markup.__file__)
        return {"reasoner": "template", "rules": rules}

    def write(self, requests: Iterable[Request]) -> Iterator[tuple[Request, Written]]:
        """Answer each request at once. A history without words gives the problem ``empty``."""
        for request in requests:
            texts = [item.caption or item.title for item in request.history]
            text = (
                supported_reasoning(texts, request.draft)
                if request.draft
                else template_reasoning(texts, tags_or_words)
            )
            if text and request.leak:
                text = told_reasoning(text, request.leak)
            yield request, Written(text, problem="" if text else "empty")


def told_reasoning(text: str, target: str) -> str:
    """``text``, with the target in place of what the text would look for.

    Args:
        text: reasoning with its three steps.
        target: the title, then the caption after a bar.
    """
    title, _, caption = neutral(target).partition(" | ")
    signals, _, _ = text.partition(" Look for: ")
    named = [*list(tags_or_words(caption))[:_MOST_WORDS], title] if caption else [title]
    return f"{signals} Look for: {join_words(named)}."


def supported_reasoning(history_texts: Sequence[str], draft: str) -> str:
    """The part of a draft that the texts of a history (oldest first) support, recently seen words first.

    Words of the draft that are in no text are dropped. The others are ordered by the sum of the positions (1 for the
    oldest text) of the texts that hold them, then by the alphabet; the first three are named. If the texts support
    nothing, the result is `template_reasoning` of the texts; "" if they hold no words.
    """
    claimed = content_words(draft)
    counts: dict[str, int] = {}
    weights: dict[str, int] = {}
    for position, text in enumerate(history_texts, start=1):
        for word in tags_or_words(text):
            if claimed.keys() >= content_words(word).keys():
                counts[word] = counts.get(word, 0) + 1
                weights[word] = weights.get(word, 0) + position
    named = sorted(weights, key=lambda word: (-weights[word], word))[:_MOST_WORDS]
    if not named:
        return template_reasoning(history_texts, tags_or_words)
    signals = ", ".join(f"{word} in {counts[word]} of {len(history_texts)}" for word in named)
    return f"Signals: {signals}. Preference: lately {named[0]}. Look for: {join_words(named)}."
