"""Ranking by yes-or-no questions, one for each candidate."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from mllmrec.engine.base import Engine
from mllmrec.engine.batches import pad
from mllmrec.evaluation.ranking import PolicyRanker, RankedExample, ranked_by_score
from mllmrec.models.policy import Policy
from mllmrec.prompts.answer_tokens import AnswerTokens
from mllmrec.prompts.examples import Example
from mllmrec.prompts.questions import Questions
from mllmrec.rollout.answer_scores import score_rows


class Pointwise(PolicyRanker):
    """Ranks by log p(Yes) - log p(No), with a separate question about each candidate."""

    def __init__(
        self, policy: Policy, answers: AnswerTokens, engine: Engine, questions: Questions, seed: int
    ) -> None:
        super().__init__(policy, answers, engine)
        self.questions, self.seed = questions, seed

    def rank(self, examples: Sequence[Example]) -> list[RankedExample]:
        """Rank one batch; ties are broken by a permutation of each user's own."""
        return ranked_by_score(
            yes_scores(self.policy, self.engine, self.questions, examples), examples, self.seed
        )


def yes_scores(
    policy: Policy, engine: Engine, questions: Questions, examples: Sequence[Example]
) -> list[np.ndarray]:
    """For each example (C,) log p(Yes) - log p(No), float64.

    The history, which all questions of an example share, is encoded once.
    """
    answers = policy.encode_answers([questions.positive, questions.negative])
    prefixes, rows, asked_before = [], [], []
    for example in examples:
        asked = policy.encode_prompts(
            [questions.prompt(example.history.tolist(), item) for item in example.candidates.tolist()]
        )
        shared = _shared_length(asked)
        prefixes.append(asked[0][:shared])
        for question in asked:
            rows += [question[shared:] + answer for answer in answers]
            asked_before += [len(question) - shared] * 2
    counts = torch.tensor([len(example.candidates) for example in examples])
    completions = pad(rows, policy.padding_token, side="right")
    scored = completions.mask & (
        torch.arange(completions.ids.shape[1]) >= torch.tensor(asked_before)[:, None]
    )
    encoded = engine.encode(policy.model, pad(prefixes, policy.padding_token, side="left").to(policy.device))
    logprobs = score_rows(
        engine,
        policy.model,
        encoded,
        completions.to(policy.device),
        torch.arange(len(examples)).repeat_interleave(2 * counts).to(policy.device),
        scored.to(policy.device),
        entropy=False,
    ).logprobs
    yes, no = logprobs.double().sum(1).view(-1, 2).T.cpu().numpy()
    return np.split(yes - no, counts.cumsum(0)[:-1].numpy())


def _shared_length(rows: Sequence[Sequence[int]]) -> int:
    """The number of tokens at the start that all rows have in common."""
    length = 0
    for tokens in zip(*rows, strict=False):
        if len(set(tokens)) > 1:
            break
        length += 1
    return length
