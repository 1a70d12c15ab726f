"""A reward for answers that come close: it compares what is said of the named item with what is said of the target."""

from __future__ import annotations

import numpy as np

from mllmrec.rewards.base import Question, TextReward
from mllmrec.rewards.hit_format import named_items
from mllmrec.text_encoders.base import TextEncoder, require_encoder
from mllmrec.text_encoders.described import DescribedItems


class Semantic(TextReward):
    """``similarity_weight`` times the cosine of the item's text with the target's, plus ``hit_weight`` for the target.

    ``invalid`` is paid for an answer that is not valid (see `mllmrec.rewards.hit_format.named_items`). A text is an item's
    title, details and caption. The target's cosine with itself is 1, even if its text has no words. Of a ranked list, the
    first item counts.

    Args:
        encoder: turns the texts into vectors.
        similarity_weight: paid for a cosine of 1, and lost for a cosine of -1.
        hit_weight: paid for the target on top of that.
        invalid: paid for anything that is not a valid answer.
        require_title: whether an answer without the title is invalid.

    Raises:
        UserError: the encoder is none.
    """

    parts = ("format", "hit", "similarity")

    def __init__(
        self,
        encoder: TextEncoder,
        similarity_weight: float = 1.0,
        hit_weight: float = 0.0,
        invalid: float = -1.0,
        require_title: bool = False,
    ) -> None:
        require_encoder(encoder, "reward.encoder")
        self.encoder = encoder
        self.similarity_weight, self.hit_weight, self.invalid = similarity_weight, hit_weight, invalid
        self.needs_title = require_title
        self._vectors: np.ndarray | None = None  # (I, D)
        self._rows: dict[str, int] = {}  # item id → its row

    @property
    def bounds(self) -> tuple[float, float]:
        """The lowest and the highest possible total."""
        weight = self.similarity_weight
        totals = (self.invalid, -weight, weight, weight + self.hit_weight)
        return min(totals), max(totals)

    def meet_items(self, items: DescribedItems) -> None:
        """Encode the texts.

        Raises:
            UserError: they cannot be encoded.
        """
        self._vectors = items.vectors(self.encoder)
        self._rows = {item: row for row, item in enumerate(items.ids)}

    def judge(self, completion: str, question: Question) -> dict[str, float]:
        """The total under ``"reward"`` and every part under its own name; the similarity of an invalid answer is 0."""
        named = named_items(completion, question, self.needs_title)
        if named is None:
            return {"reward": self.invalid, "format": 0.0, "hit": 0.0, "similarity": 0.0}
        hit = float(named[0] == question.target_id)
        similarity = 1.0 if hit else self._cosine(named[0], question.target_id)
        total = self.similarity_weight * similarity + self.hit_weight * hit
        return {"reward": total, "format": 1.0, "hit": hit, "similarity": similarity}

    def _cosine(self, one: str, other: str) -> float:
        if self._vectors is None:
            raise ValueError("meet_items has to be called before anything is judged")
        product = float(self._vectors[self._rows[one]] @ self._vectors[self._rows[other]])
        return min(1.0, max(-1.0, product))  # rounding may lead out of the bounds
