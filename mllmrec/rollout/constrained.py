"""Constrained rollouts: only the candidates' answers are possible, with probabilities renormalised over them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from mllmrec.engine.base import Engine, TokenScores
from mllmrec.engine.batches import TokenBatch
from mllmrec.rollout.answer_scores import AnswerScores, score_answers
from mllmrec.rollout.base import Completions, PlainRollout, Spelling
from mllmrec.rollout.draw import inverse_cdf, uniforms


class Constrained(PlainRollout):
    """Draws among the candidates' answers.

    A walk down the trie of answers, token by token, reaches an answer with the product of its renormalised token
    probabilities. One pass computes all of these, so a single draw replaces the walk and nothing is decoded.
    """

    constrained = True
    max_new_tokens = None

    def __init__(self, temperature: float = 1.0) -> None:
        self.temperature = temperature

    def draw(
        self,
        engine: Engine,
        model: Any,
        encoded: Any,
        group_size: int,
        generators: Sequence[torch.Generator],
        spelling: Spelling,
    ) -> Completions:
        """Draw ``group_size`` answers for each prompt; see `PlainRollout`."""
        device = next(model.parameters()).device
        scored = score_answers(
            engine, model, encoded, spelling.answers, spelling.end, device, self.temperature or 1.0
        )
        return chosen_rows(scored, self._pick(scored, spelling.answers, group_size, generators).to(device))

    def _pick(
        self,
        scored: AnswerScores,
        answers: Sequence[Sequence[Sequence[int]]],
        group_size: int,
        generators: Sequence[torch.Generator],
    ) -> torch.Tensor:
        """(B * G,) rows of ``scored``."""
        logprobs = scored.logprobs.detach().double().cpu()
        numbers = uniforms(generators, group_size)
        picked, start = [], 0
        for options, own in zip(answers, numbers, strict=True):
            probabilities = logprobs[start : start + len(options)].exp()
            if self.temperature == 0:
                picked.append(probabilities.argmax().repeat(group_size) + start)
            else:
                picked.append(inverse_cdf(probabilities.expand(group_size, -1), own) + start)
            start += len(options)
        return torch.cat(picked)


def chosen_rows(scored: AnswerScores, rows: torch.Tensor, weights: torch.Tensor | None = None) -> Completions:
    """Some rows of scored answers as completions that keep their known scores."""
    mask = scored.completions.mask[rows]
    width = int(mask.sum(1).max())
    return Completions(
        tokens=TokenBatch(scored.completions.ids[rows, :width], mask[:, :width]),
        prompt_of=scored.prompt_of[rows],
        decisions=scored.decisions[rows, :width],
        choices=scored.choices.rows(rows)._replace(set_of=scored.choices.set_of[rows, :width]),
        finished=torch.ones(len(rows), dtype=torch.bool, device=rows.device),
        weights=weights,
        scores=TokenScores(scored.scores.logprobs[rows, :width], scored.scores.entropy[rows, :width]),
    )
