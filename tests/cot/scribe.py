"""A reasoner with results that can be checked in the head, and items for it."""

from __future__ import annotations

from mllmrec.reasoners.base import Estimate, HistoryItem, Reasoner, Written

ITEMS = {
    str(number): HistoryItem(str(number), f"Title {number}", f"caption{number}, red", None)
    for number in range(12)
}


class Scribe(Reasoner):
    """Names the history's items, refuses the users that it is told to refuse, and records what it was asked."""

    def __init__(self, name: str, refuses: tuple[str, ...] = ()) -> None:
        self.name, self.refuses, self.asked = name, refuses, []

    def identity(self):
        return {"reasoner": self.name}

    def write(self, requests):
        for request in requests:
            self.asked.append(request)
            if request.user_id in self.refuses:
                yield request, Written("", problem="refused", prompt_tokens=1)
                continue
            shown = " ".join(item.item_id for item in request.history)
            yield (
                request,
                Written(f"{self.name} of {shown}", "thought", prompt_tokens=10, completion_tokens=2),
            )

    def estimate(self, requests):
        requests = list(requests)
        return Estimate(len(requests), sum(len(r.message) for r in requests), 5 * len(requests))
