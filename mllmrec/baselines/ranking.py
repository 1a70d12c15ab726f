"""Ranks candidates by a classical recommender's scores."""

from __future__ import annotations

from collections.abc import Sequence

from mllmrec.baselines.base import Recommender
from mllmrec.evaluation.ranking import RankedExample, Ranker, ranked_by_score
from mllmrec.prompts.examples import Example


class RecommenderRanker(Ranker):
    """Ranks by score, computed from the whole history."""

    reads_prompts = False
    name = "score"  # the name in protocols, whatever their settings say

    def __init__(self, recommender: Recommender, seed: int) -> None:
        self.recommender, self.seed = recommender, seed

    def rank(self, examples: Sequence[Example]) -> list[RankedExample]:
        """Rank one batch. A permutation of each user's own breaks ties."""
        scores = self.recommender.scores(
            [example.history for example in examples], [example.candidates for example in examples]
        )
        return ranked_by_score(scores, examples, self.seed)
