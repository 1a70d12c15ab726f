"""What each filter leaves, step by step."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Funnel:
    """What each filter leaves, in order. ``items`` counts items with at least one interaction."""

    dataset: str
    steps: list[dict[str, int | str]] = field(
        default_factory=list
    )  # step, reason, users, items, interactions
    notes: dict[str, int] = field(default_factory=dict)  # counted, but not dropped

    @property
    def whole(self) -> dict[str, int]:
        """Users, items and interactions of the whole dataset as read, before any filter."""
        return {name: int(self.steps[0][name]) for name in ("users", "items", "interactions")}

    @property
    def dropped(self) -> dict[str, dict[str, int]]:
        """Step -> users, items and interactions that it removed. Steps that removed nothing are included."""
        return {
            str(after["step"]): {
                name: int(before[name]) - int(after[name]) for name in ("users", "items", "interactions")
            }
            for before, after in zip(self.steps, self.steps[1:], strict=False)
        }

    def rows(self) -> list[tuple[str, str, int, int, int]]:
        """One (step, reason, users, items, interactions) per step, for a table."""
        return [
            (str(s["step"]), str(s["reason"]), int(s["users"]), int(s["items"]), int(s["interactions"]))
            for s in self.steps
        ]

    def to_json(self) -> dict[str, object]:
        """Plain values for ``data.json``."""
        return {"steps": self.steps, "dropped": self.dropped, "notes": self.notes}

    def describe(self) -> str:
        """The whole funnel on one line, for an error message."""
        return " -> ".join(
            f"{s['step']}: {s['users']} users / {s['items']} items / {s['interactions']} interactions"
            for s in self.steps
        )
