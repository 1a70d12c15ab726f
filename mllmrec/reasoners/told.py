"""What the writers of reasoning were told beside the history: a mark that goes with texts, files, runs and tables."""

from __future__ import annotations

from collections.abc import Iterable

NOTHING, UNKNOWN, TARGET = "none", "unknown", "target"
TOLD = (NOTHING, UNKNOWN, TARGET)  # rising


def most_told(kinds: Iterable[str]) -> str:
    """The mark of what was made from texts with these marks: one that knew the target is enough."""
    return max(kinds, key=TOLD.index, default=NOTHING)
