"""Inspired by TAR-TVG (Guo et al. 2025, arXiv 2508.07683): reasoning that narrows the candidates down step by step is paid.

The authors' anchors are spans of time, each of which shall overlap more with the true one. Here an anchor is a shortlist:
candidates that the reasoning names one after another, with nothing between them. The answer is the last anchor.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from itertools import pairwise

import torch

from mllmrec.prompts.markup import item_label
from mllmrec.rewards.base import Rewards, Shaper
from mllmrec.rl.batch import Question, RolloutBatch

_BETWEEN = re.compile(r"(?:[\s,;>&]|\b(?:and|or|then)\b)*")  # between two names of one shortlist


def shortlists(reasoning: str, question: Question) -> list[frozenset[str]]:
    """The candidates that reasoning names, in runs of names that follow each other directly.

    A candidate is named by its label, by its label and title, or by its title.
    """
    names: dict[str, str] = {}
    for item, title in question.titles.items():
        label = item_label(item) if question.naming.label == "id" else ""
        for name in (f"{label} {title}".strip(), label, title):
            if name:
                names.setdefault(name.casefold(), item)
    # Longer names first, so that a label takes its title along.
    pattern = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    said, found, end = reasoning.casefold(), list[set[str]](), -1
    for match in re.finditer(rf"(?<!\w)(?:{pattern})(?!\w)", said) if names else ():
        if end < 0 or not _BETWEEN.fullmatch(said, end, match.start()):
            found.append(set())
        found[-1].add(names[match[0]])
        end = match.end()
    return [frozenset(one) for one in found]


def progress(qualities: Sequence[float]) -> float:
    """The share of steps from one anchor to the next that gain quality; 0 without a step."""
    steps = [later > earlier for earlier, later in pairwise(qualities)]
    return sum(steps) / len(steps) if steps else 0.0


class AnchorProgress(Shaper):
    """Adds ``weight`` times the `progress` of the quality of a row's anchors, the answer being the last one.

    The quality of a shortlist S is ``1 / log2(1 + |S|)`` if the target is in it, else 0. An answer that is not valid has no
    anchors.
    """

    parts = ("progress", "anchors")

    def __init__(self, weight: float = 0.5) -> None:
        if weight < 0:
            raise ValueError(f"weight={weight}: must be at least 0")
        self.weight = weight

    def bounds(self, low: float, high: float) -> tuple[float, float]:
        """Progress is between 0 and 1."""
        return low, high + self.weight

    def __call__(self, batch: RolloutBatch) -> Rewards:
        """See the class; ``anchors`` counts those in the reasoning."""
        found = [self._anchors(batch, row) for row in range(len(batch))]
        gained = torch.tensor([progress(self._qualities(batch, row, own)) for row, own in enumerate(found)])
        counted = torch.tensor([float(max(len(own) - 1, 0)) for own in found])
        return Rewards(batch.judged() + self.weight * gained, {"progress": gained, "anchors": counted})

    def _anchors(self, batch: RolloutBatch, row: int) -> list[frozenset[str]]:
        answer, question = batch.answers[row], batch.question(row)
        if not question.well_formed(answer):
            return []
        return [*shortlists(answer.reasoning, question), frozenset(item for item, _ in answer.items)]

    def _qualities(self, batch: RolloutBatch, row: int, anchors: Sequence[frozenset[str]]) -> list[float]:
        target = batch.question(row).target_id
        return [1 / math.log2(1 + len(one)) if target in one else 0.0 for one in anchors]
