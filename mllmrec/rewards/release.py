"""The reward of the released MLLMRec-R1 code, to allow comparison with its numbers."""

from __future__ import annotations

import re

from mllmrec.prompts.markup import THINK_CLOSE, label_item
from mllmrec.rewards.base import Question, TextReward

_PATTERN = re.compile(r"^\[ITEM_([^\[\]\s]+)\]\s+(.+)$")


class Release(TextReward):
    """-1 for a wrong form, 0.3 for any other well-formed id, 1 for the target's id.

    It keeps the known faults of `train/grpo.py` in wangyu0627/MLLMRec-R1: it ignores the title, it pays 0.3 for an id
    that is not a candidate, and it rejects reasoning before the answer, since it reads the text *before* the closing
    tag. There is one difference: ids need not be digits.
    """

    parts = ("format", "hit")
    needs_title = True
    needs_ids = True

    def __init__(self, malformed: float = -1.0, miss: float = 0.3, hit: float = 1.0) -> None:
        self.malformed, self.miss, self.hit = malformed, miss, hit

    @property
    def bounds(self) -> tuple[float, float]:
        """The lowest and the highest possible total."""
        totals = (self.malformed, self.miss, self.hit)
        return min(totals), max(totals)

    def judge(self, completion: str, question: Question) -> dict[str, float]:
        """The total under ``"reward"`` and every part under its own name."""
        text = completion.strip()
        if THINK_CLOSE in text:
            text = text.split(THINK_CLOSE)[0].strip()
        match = _PATTERN.match(text)
        if match is None:
            return {"reward": self.malformed, "format": 0.0, "hit": 0.0}
        hit = label_item(match[1]) == question.target_id
        return {"reward": self.hit if hit else self.miss, "format": 1.0, "hit": float(hit)}
