"""What the writers of reasoning were told besides the history: a mark kept with texts, files, runs and tables."""

from __future__ import annotations

from collections.abc import Iterable

NOTHING, UNKNOWN, TARGET = "none", "unknown", "target"
TOLD = (NOTHING, UNKNOWN, TARGET)  # ascending


def most_told(kinds: Iterable[str]) -> str:
    """The mark of something made from texts with these marks: the highest of them."""
    return max(kinds, key=TOLD.index, default=NOTHING)
