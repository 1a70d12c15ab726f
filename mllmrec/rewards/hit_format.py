"""Our reward: it pays for a valid and for a correct answer, and uses the same parser as the reported metrics."""

from __future__ import annotations

from mllmrec.prompts.answers import parse_answer, same_title
from mllmrec.rewards.base import Question, TextReward


class HitFormat(TextReward):
    """``format_weight`` for a valid answer, plus ``hit_weight`` if it is the target; ``invalid`` for any other answer.

    A valid answer has exactly one line for each item that is asked for, no item twice, and reasoning only in closed think tags before or after it. The id
    belongs to a candidate. Of a ranked list, the first item decides whether it is a hit. If the answer has a title, or needs one and the candidate has one, the titles must match.
    """

    parts = ("format", "hit")

    def __init__(
        self,
        hit_weight: float = 1.0,
        format_weight: float = 0.0,
        invalid: float = -1.0,
        require_title: bool = False,
    ) -> None:
        self.hit_weight, self.format_weight, self.invalid = hit_weight, format_weight, invalid
        self.needs_title = require_title

    @property
    def bounds(self) -> tuple[float, float]:
        """The lowest and the highest possible total."""
        totals = (self.invalid, self.format_weight, self.format_weight + self.hit_weight)
        return min(totals), max(totals)

    def judge(self, completion: str, question: Question) -> dict[str, float]:
        """The total under ``"reward"`` and every part under its own name."""
        parsed = parse_answer(completion, question.places)
        if not question.well_formed(parsed) or not all(self._valid(*item, question) for item in parsed.items):
            return {"reward": self.invalid, "format": 0.0, "hit": 0.0}
        hit = float(parsed.items[0][0] == question.target_id)
        return {"reward": self.format_weight + self.hit_weight * hit, "format": 1.0, "hit": hit}

    def _valid(self, item_id: str, title: str, question: Question) -> bool:
        expected = question.titles.get(item_id)
        if expected is None:
            return False
        return same_title(title, expected) if title else not (self.needs_title and expected)
