"""Majority: of several drawn answers, what most of them say (self-consistency, Wang et al. 2022, arXiv 2203.11171)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mllmrec.inference.drawn import Drawn, Tokens, TokenScore
from mllmrec.inference.sampled import Rest, Sampled


class Majority(Sampled):
    """Ranks candidates by votes.

    An answer that names one item gives it a vote. A ranked list of L items gives its item at place k (from 0 on) ``1 - k / L``
    votes, which is Borda's count. Candidates with equal votes are in the order of the mean score of the answers that name them.
    """

    def __init__(
        self,
        n: int,
        temperature: float = 1.0,
        ties: TokenScore = "mean_logprob",
        tokens: Tokens = "answer",
        rest: Rest = "greedy",
    ) -> None:
        """Set how to draw and count.

        Args:
            n: answers for each user.
            temperature: of draws and scores.
            ties: the score that orders candidates with equal votes.
            tokens: whether that score is of the answer's tokens, or of those of the reasoning in front as well.
            rest: what happens to candidates that no answer names.
        """
        super().__init__(n, temperature, ties, tokens, rest)

    def order(self, drawn: Drawn) -> list[int]:
        """See `Sampled`; what is equal in votes and scores stays in the order drawn."""
        votes, scores = ballots(drawn.named, drawn.scores)
        return sorted(votes, key=lambda column: (-round(votes[column], 9), -scores[column]))


def ballots(named: Sequence[Sequence[int]], scores: np.ndarray) -> tuple[dict[int, float], dict[int, float]]:
    """The votes for each candidate that is named, and the mean score of the answers that name it.

    Args:
        named: n answers, each with the candidates that it names, best first.
        scores: (n,).

    >>> ballots([[2], [0], [2]], np.array([-1.0, -0.5, -2.0]))
    ({2: 2.0, 0: 1.0}, {2: -1.5, 0: -0.5})
    >>> ballots([[2, 0], [0, 1]], np.zeros(2))[0]
    {2: 1.0, 0: 1.5, 1: 0.5}
    """
    votes: dict[int, float] = {}
    given: dict[int, list[float]] = {}
    for columns, score in zip(named, scores.tolist(), strict=True):
        for place, column in enumerate(columns):
            votes[column] = votes.get(column, 0.0) + 1 - place / len(columns)
            given.setdefault(column, []).append(score)
    return votes, {column: float(np.mean(own)) for column, own in given.items()}
