"""The interface of rollouts: their arguments, and what they hand to rewards, advantages and the loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mllmrec.engine.base import ChoiceSets, Engine, TokenScores
from mllmrec.engine.batches import TokenBatch


@dataclass(frozen=True)
class Rollouts:
    """R = B * G completions; row r answers prompt ``r // G``."""

    completions: TokenBatch  # (R, T), padded right; each ends with the end-of-sequence token unless cut off
    prompt_of: Tensor  # (R,)
    decisions: Tensor  # (R, T) bool: tokens that were drawn and not forced; the loss covers only these
    choices: ChoiceSets | None  # the tokens that competed; None: the whole vocabulary
    finished: Tensor  # (R,) bool: the completion ended within the length limit
    weights: Tensor | None = None  # (R,) probability of each row, if rows are all answers and not draws
    scores: TokenScores | None = None  # (R, T) if already known; with a graph if gradients were on


class Sampler(ABC):
    """A rollout strategy. The log-probabilities in the loss use the same ``temperature``."""

    constrained: bool  # whether only the candidates' answers are possible
    every_answer: bool = False  # whether every candidate's answer is a rollout, so that G = C
    temperature: float
    max_new_tokens: int | None  # the longest completion; None: as long as the longest answer

    @abstractmethod
    def __call__(
        self,
        engine: Engine,
        model: Any,
        encoded: Any,
        group_size: int,
        generators: Sequence[torch.Generator],
        answers: Sequence[Sequence[Sequence[int]]],
        end_token: int,
    ) -> Rollouts:
        """Complete each of B prompts ``group_size`` times.

        Args:
            engine: runs the model.
            model: a causal language model.
            encoded: the prompts, as the engine encoded them.
            group_size: G.
            generators: one for each prompt, on the CPU. All draws come from them, so a prompt's rollouts do not
                depend on its batch.
            answers: per prompt, the token ids of every candidate's answer with the end token (used if only these
                answers are possible).
            end_token: the id that ends a completion.
        """
