"""Answers that were drawn for a prompt: what they name, and how good the policy thinks they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from mllmrec.evaluation.records import clean_ranking
from mllmrec.rl.batch import RolloutBatch
from mllmrec.step.speaker import Speaker

TokenScore = Literal["mean_logprob", "sum_logprob", "self_certainty"]
Score = Literal["mean_logprob", "sum_logprob", "self_certainty", "frequency"]
Tokens = Literal["answer", "all"]


@dataclass(frozen=True)
class Drawn:
    """n answers to the prompt of one example."""

    named: Sequence[Sequence[int]]  # n, the columns of the candidates that each names, in its order
    scores: np.ndarray  # (n,) float64, greater is better
    texts: Sequence[str]  # n
    vectors: np.ndarray | None = None  # (n, D), if the part asked for any
    duplicates: int = 0  # in all answers
    off_candidate: int = 0


def frequencies(named: Sequence[Sequence[int]]) -> np.ndarray:
    """(n,) the share of n answers that name the same candidates in the same order.

    >>> frequencies([[2], [0], [2], [2]]).tolist()
    [0.75, 0.25, 0.75, 0.75]
    """
    count = Counter(map(tuple, named))
    return np.array([count[tuple(one)] / len(named) for one in named])


def by_score(drawn: Drawn) -> list[int]:
    """The answers that name a candidate, best first; equal ones in the order drawn."""
    order = np.argsort(-drawn.scores, kind="stable")
    return [row for row in order.tolist() if drawn.named[row]]


def columns_of(drawn: Drawn, rows: Sequence[int]) -> list[int]:
    """The candidates that these answers name, each where it is named first."""
    return list(dict.fromkeys(column for row in rows for column in drawn.named[row]))


def read(
    batch: RolloutBatch, score: Score, tokens: Tensor | None = None, vectors: np.ndarray | None = None
) -> list[Drawn]:
    """The answers to each example of a batch, in the order of the examples.

    Args:
        batch: the answers.
        score: how good an answer is.
        tokens: (R,) the score of each row, unless it is ``frequency``.
        vectors: (R, D) of each row.
    """
    found = []
    example_of = batch.example_of.cpu().numpy()
    for place, question in enumerate(batch.questions):
        rows = np.flatnonzero(example_of == place)
        column_of = {item: column for column, item in enumerate(question.titles)}
        kept = [
            clean_ranking([item for item, _ in batch.answers[row].items], column_of) for row in rows.tolist()
        ]
        named = [[column_of[item] for item in one.item_ids] for one in kept]
        if score == "frequency":
            scores = frequencies(named)
        else:
            assert tokens is not None
            scores = tokens[rows].double().numpy()
        found.append(
            Drawn(
                named,
                scores,
                [batch.texts[row] for row in rows.tolist()],
                None if vectors is None else vectors[rows],
                sum(one.duplicates for one in kept),
                sum(one.off_candidate for one in kept),
            )
        )
    return found


@torch.no_grad()
def scored_rows(score: TokenScore, batch: RolloutBatch, speaker: Speaker, over: Tokens = "answer") -> Tensor:
    """How good the policy thinks each answer is under the example's own prompt.

    ``mean_logprob`` and ``sum_logprob`` are of the tokens that were chosen; ``self_certainty`` is the mean over them of how far
    the distribution of what could have been chosen is from the uniform one (`certainty_of`).

    Args:
        score: which of them.
        batch: R answers.
        speaker: the policy; its temperature counts.
        over: the tokens of the answer, or those of the reasoning in front as well.

    Returns:
        (R,) on the CPU; 0 for an answer without any such token.
    """
    counted = batch.learnt
    if over == "answer" and batch.segments is not None:
        counted = counted & (batch.segments >= 0)
    prompts = speaker.policy.prompt_batch([example.prompt for example in batch.examples])
    values = torch.zeros(batch.learnt.shape, device=batch.learnt.device)
    for rows in torch.arange(len(batch), device=values.device).split(speaker.micro_batch_size):
        given = speaker.scores(
            speaker.policy.model,
            batch,
            rows,
            prompts=prompts,
            entropy=False,
            certainty=score == "self_certainty",
        )
        values[rows] = (given.entropy if score == "self_certainty" else given.logprobs).to(values.dtype)
    total = torch.where(counted, values, 0.0).double().sum(1)
    if score != "sum_logprob":
        total = total / counted.sum(1).clamp_min(1)
    return total.cpu()
