"""No sampling: every candidate's answer is a rollout, weighted by its probability.

With them the update is the exact expected gradient of GRPO; ``enumerated.md`` in this folder derives it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from mllmrec.engine.base import Engine
from mllmrec.rollout.answer_scores import score_answers
from mllmrec.rollout.base import Completions, PlainRollout, Spelling
from mllmrec.rollout.constrained import chosen_rows


class Enumerated(PlainRollout):
    """Takes all C answers of each prompt and draws nothing; G = C, whatever ``group_size`` says."""

    constrained = True
    every_answer = True
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
        """Return all answers; see `PlainRollout`.

        Raises:
            ValueError: the prompts differ in their number of candidates.
        """
        if len({len(options) for options in spelling.answers}) != 1:
            raise ValueError("rollout=enumerate needs the same number of candidates in every prompt")
        device = next(model.parameters()).device
        scored = score_answers(
            engine, model, encoded, spelling.answers, spelling.end, device, self.temperature or 1.0
        )
        every = torch.arange(len(scored.prompt_of), device=device)
        return chosen_rows(scored, every, weights=scored.logprobs.detach().exp())
