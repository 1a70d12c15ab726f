"""MM-UPT (Wei et al. 2025, arXiv 2505.22453): without a label, an answer earns what the group's other answers say of it."""

from __future__ import annotations

import torch

from mllmrec.rewards.base import Reward, Rewards
from mllmrec.rewards.hit_format import named_items
from mllmrec.rl.batch import RolloutBatch


class MajorityVote(Reward):
    """1 for the item that most rows of the group name, else 0; the target is not read.

    Only valid answers vote, and of items with equally many votes the one that was named first wins. Rows that carry
    probabilities vote with them.

    Ranked lists agree in part: a valid list earns the mean share of its items that each other list of the group has too.
    Lists that are not valid share nothing.

    The parts ``format`` and ``hit`` are logged, not paid. ``hit`` is the only number that sees the target.
    """

    parts = ("format", "hit")

    @property
    def bounds(self) -> tuple[float, float]:
        """A vote, or a share."""
        return 0.0, 1.0

    def __call__(self, batch: RolloutBatch) -> Rewards:
        """See the class."""
        questions = [batch.question(row) for row in range(len(batch))]
        named = [
            named_items(text, question, needs_title=False)
            for text, question in zip(batch.texts, questions, strict=True)
        ]
        total = torch.zeros(len(batch))
        weights = torch.ones(len(batch)) if batch.weights is None else batch.weights.cpu()
        for group in range(batch.groups.count):
            rows = (batch.group_of == group).nonzero()[:, 0].tolist()
            answers = [named[row] for row in rows]
            agree = _votes if questions[rows[0]].places == 1 else _overlaps
            total[rows] = torch.tensor(agree(answers, weights[rows].tolist()))
        hits = [
            float(own is not None and own[0] == question.target_id)
            for own, question in zip(named, questions, strict=True)
        ]
        return Rewards(
            total,
            {"format": torch.tensor([float(own is not None) for own in named]), "hit": torch.tensor(hits)},
        )


def _votes(answers: list[list[str] | None], weights: list[float]) -> list[float]:
    votes: dict[str, float] = {}
    for answer, weight in zip(answers, weights, strict=True):
        if answer is not None:
            votes[answer[0]] = votes.get(answer[0], 0.0) + weight
    winner = max(votes, key=lambda item: votes[item]) if votes else None
    return [float(answer is not None and answer[0] == winner) for answer in answers]


def _overlaps(answers: list[list[str] | None], weights: list[float]) -> list[float]:
    earned = []
    for place, answer in enumerate(answers):
        others = [(own, weights[other]) for other, own in enumerate(answers) if other != place]
        everyone = sum(weight for _, weight in others)
        shared = sum(
            weight * len(set(answer) & set(own)) / len(answer) for own, weight in others if answer and own
        )
        earned.append(min(1.0, shared / everyone) if everyone > 0 else 0.0)
    return earned
