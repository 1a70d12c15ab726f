"""Our reward: it pays for a valid and for a correct answer, and uses the same parser as the reported metrics."""

from __future__ import annotations

from mllmrec.prompts.answers import same_title
from mllmrec.rewards.base import Question, TextReward


def named_items(completion: str, question: Question, needs_title: bool) -> list[str] | None:
    """The ids that a valid answer names, in order; None if the answer is not valid.

    A valid answer has exactly one line for each item that is asked for, no item twice, and reasoning only in closed think
    tags before or after it. Each id belongs to a candidate. If the answer has a title, or needs one and the candidate has
    one, the titles must match.
    """
    parsed = question.read(completion)
    if not question.well_formed(parsed):
        return None
    valid = all(_is_right(title, question.titles.get(item), needs_title) for item, title in parsed.items)
    return [item for item, _ in parsed.items] if valid else None


def _is_right(title: str, expected: str | None, needs_title: bool) -> bool:
    """Whether a written title is the candidate's; ``expected`` is None for an item that is no candidate."""
    if expected is None:
        return False
    return same_title(title, expected) if title else not (needs_title and expected)


class HitFormat(TextReward):
    """``format_weight`` for a valid answer, plus ``hit_weight`` if it is the target; ``invalid`` for any other answer.

    Of a ranked list, the first item decides whether it is a hit.
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
        named = named_items(completion, question, self.needs_title)
        if named is None:
            return {"reward": self.invalid, "format": 0.0, "hit": 0.0}
        hit = float(named[0] == question.target_id)
        return {"reward": self.format_weight + self.hit_weight * hit, "format": 1.0, "hit": hit}
