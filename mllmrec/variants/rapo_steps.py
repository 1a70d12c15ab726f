"""RAPO's reward for traces of tool calls (Fathom-DeepResearch, arXiv 2509.24107), paid for the sentences of reasoning.

The authors' policy searches the web and queries pages. Here nothing is called: a sentence of the reasoning is a step, one that
names a candidate is a query about it, and any other one is a search.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from mllmrec.prompts.naming import plain
from mllmrec.rewards.base import Rewards, Shaper
from mllmrec.rl.batch import Question, RolloutBatch
from mllmrec.variants.tar_tvg import shortlists

_ENDS = re.compile(r"[.;!?]+(?:\s+|$)|\n+")


@dataclass(frozen=True)
class Trace:
    """What the steps of an answer were."""

    calls: int  # all steps
    redundant: int  # those that were there before
    searches: int  # different ones that name no candidate
    queries: int  # different ones that name one

    @classmethod
    def of(cls, reasoning: str, question: Question) -> Trace:
        """The steps of reasoning about a question; those that differ in case or spacing alone are the same."""
        steps = [plain(step) for step in _ENDS.split(reasoning) if step.strip()]
        different = set(steps)
        queries = sum(bool(shortlists(step, question)) for step in different)
        return cls(len(steps), len(steps) - len(different), len(different) - queries, queries)

    @property
    def redundancy(self) -> float:
        """The share of redundant steps; 0 without a step."""
        return self.redundant / self.calls if self.calls else 0.0


class StepReward(Shaper):
    """Replaces each reward: right answers lose what their steps repeat, and wrong ones earn for what they looked at.

    With the redundancy x, a right answer earns ``hit * max(1 - x, floor)``. A wrong one with S different searches and Q
    different queries earns ``explored * (min(1, S / searches) + min(1, Q / queries))``. Both earn ``format`` if they are
    valid. An answer is right if the reward's part ``hit`` is above 1/2.

    Args:
        weights: ``hit`` and ``format``.
        floor: the least share of ``hit`` that a right answer earns.
        explored: paid for enough searches, and again for enough queries.
        searches: that are enough.
        queries: that are enough.

    Raises:
        ValueError: a setting is out of range.
    """

    needs_parts = True
    parts = ("redundancy", "searches", "queries")

    def __init__(
        self,
        weights: Mapping[str, float],
        floor: float = 0.5,
        explored: float = 0.2,
        searches: int = 8,
        queries: int = 16,
    ) -> None:
        self.weights = {str(name): float(one) for name, one in weights.items()}
        if set(self.weights) != {"hit", "format"} or min(self.weights.values()) < 0:
            raise ValueError(
                f"weights={self.weights}: must be numbers from 0 on, as in {{hit: 1, format: 0.1}}"
            )
        if not 0 <= floor <= 1 or explored < 0 or searches < 1 or queries < 1:
            raise ValueError(
                f"floor={floor:g}, explored={explored:g}, searches={searches} and queries={queries}: must be a share, a number "
                "from 0 on, and two numbers from 1 on"
            )
        self.floor, self.explored, self.searches, self.queries = floor, explored, searches, queries

    def bounds(self, low: float, high: float) -> tuple[float, float]:
        """From nothing to the best right or wrong answer."""
        return 0.0, self.weights["format"] + max(self.weights["hit"], 2 * self.explored)

    def earned(self, trace: Trace, right: bool) -> float:
        """What steps earn, without what a valid answer earns."""
        if right:
            return self.weights["hit"] * max(1 - trace.redundancy, self.floor)
        looked = min(1, trace.searches / self.searches) + min(1, trace.queries / self.queries)
        return self.explored * looked

    def __call__(self, batch: RolloutBatch) -> Rewards:
        """See the class; the parts are those of `Trace`, (R,)."""
        traces = [Trace.of(answer.reasoning, batch.question(row)) for row, answer in enumerate(batch.answers)]
        right = (batch.parts["hit"] > 0.5).tolist()
        steps = [self.earned(trace, own) for trace, own in zip(traces, right, strict=True)]
        total = self.weights["format"] * batch.parts["format"] + torch.tensor(steps)
        found = {name: torch.tensor([float(getattr(one, name)) for one in traces]) for name in self.parts}
        return Rewards(total, found)
