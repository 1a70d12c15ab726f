"""Reasoning about one view of the items, what they look like or what they are called. It uses no model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mllmrec.cot.base import CotKey, CotPolicy
from mllmrec.errors import UserError
from mllmrec.randomness import numpy_generator
from mllmrec.reasoners.counting import frequent_words, word_counts


class Views(CotPolicy):
    """The words that a history repeats, and the listed candidates that share most of its words.

    Each sample is reasoned about by one view, its captions or its titles. The view is drawn, whichever of them predicts
    better: a policy that learns these texts learns both ways to reason, and its reward can tell it which one pays.

    Args:
        captions: item id → caption.
        titles: item id → title.
        seed: of the draw.
        pictures: share of the samples whose reasoning looks at captions. None: half of them, or none if no item has a caption.
        closest: listed candidates that learnt reasoning names, the closest first; 0 for none.
        words: the most words that a text names, most frequent first.
        brevity: the chance that a text ends after a word, drawn after each; 0: every text names as many as it can.

    Raises:
        UserError: a value makes no sense, or a share was asked for and no item has a caption.
    """

    wants = ("captions", "titles", "seed")

    def __init__(
        self,
        captions: Mapping[str, str],
        titles: Mapping[str, str],
        seed: int,
        pictures: float | None = None,
        closest: int = 3,
        words: int = 3,
        brevity: float = 0.0,
    ) -> None:
        if pictures is None:
            pictures = 0.5 if any(captions.values()) else 0.0
        if not 0 <= pictures <= 1:
            raise UserError(f"cot_policy.pictures={pictures}: a share lies between 0 and 1")
        if closest < 0:
            raise UserError(f"cot_policy.closest={closest}: a number of candidates is not negative")
        if words < 1:
            raise UserError(f"cot_policy.words={words}: a text names at least one word")
        if not 0 <= brevity <= 1:
            raise UserError(f"cot_policy.brevity={brevity}: a chance lies between 0 and 1")
        if pictures and not any(captions.values()):
            raise UserError(
                f"cot_policy.pictures={pictures:g}, and no item has a caption to look at: choose a captioner (caption=palette, if "
                "items have images), or set cot_policy.pictures=0"
            )
        self.texts = {"Pictures": captions, "Titles": titles}
        self.seed, self.pictures, self.num_closest = seed, pictures, closest
        self.words, self.brevity = words, brevity

    def reasoning(self, key: CotKey) -> str | None:
        """The view and its most frequent words; None if the view has no words."""
        view = self._view(key)
        words = frequent_words(self._texts(view, key.history_ids), self._most(key))
        return f"{view}: {', '.join(words)}." if words else None

    def closest(self, key: CotKey, candidates: Sequence[str]) -> list[int]:
        """The columns of the candidates that share most words with the history; the first of equals comes first.

        A word counts as often as items of the history have it.
        """
        view = self._view(key)
        counts = word_counts(self._texts(view, key.history_ids))
        shared = [sum(counts[word] for word in word_counts([text])) for text in self._texts(view, candidates)]
        return sorted(range(len(shared)), key=lambda column: -shared[column])[: self.num_closest]

    def _most(self, key: CotKey) -> int:
        """How many words the text may name."""
        if self.brevity == 0:
            return self.words
        drawn = numpy_generator(self.seed, "length", key.split, key.user_id, key.sample_id, key.target_id)
        return min(self.words, int(drawn.geometric(self.brevity)))

    def _view(self, key: CotKey) -> str:
        drawn = numpy_generator(
            self.seed, "view", key.split, key.user_id, key.sample_id, key.target_id
        ).random()
        return "Pictures" if drawn < self.pictures else "Titles"

    def _texts(self, view: str, items: Sequence[str]) -> list[str]:
        return [self.texts[view].get(item, "") for item in items]
