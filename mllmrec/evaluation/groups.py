"""Ranking more candidates than a training prompt lists: in several lists of that length, whose scores are joined."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from mllmrec.engine.base import Engine
from mllmrec.evaluation.ranking import PolicyRanker, RankedExample, candidate_scores, ranked_by_score
from mllmrec.models.policy import Policy
from mllmrec.prompts.answer_tokens import AnswerTokens
from mllmrec.prompts.examples import Example


class Groups(PolicyRanker):
    """By the log-probability of a candidate's answer in the lists that it stands in, joined by `join_lists`."""

    def __init__(
        self,
        policy: Policy,
        answers: AnswerTokens,
        engine: Engine,
        seed: int,
        *,
        constrained: bool = False,
        batch_size: int = 32,
    ) -> None:
        """Take the policy.

        Args:
            policy: ranks.
            answers: of the policy.
            engine: runs the model.
            seed: of ties.
            constrained: whether probabilities are renormalised over the items of a list.
            batch_size: prompts at once; an example has several.
        """
        super().__init__(policy, answers, engine)
        self.seed, self.constrained, self.batch_size = seed, constrained, batch_size

    def rank(self, examples: Sequence[Example]) -> list[RankedExample]:
        """Rank one batch; ties are broken by a permutation of each user's own."""
        return ranked_by_score(self.scores(examples), examples, self.seed)

    def scores(self, examples: Sequence[Example]) -> list[np.ndarray]:
        """For each example (C,): log-probabilities as if one list held all its candidates, up to a constant."""
        prompts = [
            replace(example, prompt=listed.prompt, candidates=listed.items)
            for example in examples
            for listed in example.lists
        ]
        rows: list[np.ndarray] = []
        for start in range(0, len(prompts), self.batch_size):
            rows += list(
                candidate_scores(
                    self.policy,
                    self.answers,
                    prompts[start : start + self.batch_size],
                    constrained=self.constrained,
                    engine=self.engine,
                )
            )
        found, start = [], 0
        for example in examples:
            end = start + len(example.lists)
            items = np.stack([listed.items for listed in example.lists])
            found.append(join_lists(items, np.stack(rows[start:end]), example.candidates))
            start = end
        return found


def join_lists(items: np.ndarray, scores: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """One score for each candidate from those of several lists.

    A policy that chooses among what is listed divides one probability among the items of a list, so a score depends on
    the company: score[g, i] = u[i] + o[g], where o[g] is the same for the whole list g. That is exact where the odds
    of two items do not depend on the others (Luce's choice axiom, the softmax); it holds with o = 0 for a policy that
    does not look at the list. u and o are fitted by least squares. What lists leave open because they have no item in
    common is decided by the o of least norm.

    Args:
        items: (G, L) item codes, each once in a list.
        scores: (G, L) their log-probabilities.
        candidates: (C,) item codes, each in at least one list. Other listed items have no score.

    Returns:
        u of the candidates, (C,).
    """
    listed, column = np.unique(items, return_inverse=True)
    column = column.reshape(items.shape)
    groups = np.arange(len(items))[:, None]
    stands = np.zeros((len(items), len(listed)))  # (G, items) 1 where the list has the item
    stands[groups, column] = 1
    times = stands.sum(0)
    total = np.zeros(len(listed))
    np.add.at(total, column, scores)
    # The normal equations after u[i] = mean over its lists of (score - o).
    left = np.diag(stands.sum(1)) - (stands / times) @ stands.T
    right = scores.sum(1) - stands @ (total / times)
    offsets = np.linalg.pinv(left, hermitian=True) @ right
    joined = (total - offsets @ stands) / times
    # Rounded, so that arithmetic makes no difference where the policy makes none.
    return np.round(joined[np.searchsorted(listed, candidates)], 9)
