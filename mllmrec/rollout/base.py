"""What a rollout asks for and what it hands to rewards, advantages and loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mllmrec.engine.batches import TokenBatch


@dataclass(frozen=True)
class Rollouts:
    """R = B * G completions; row r answers prompt ``r // G``."""

    prompts: TokenBatch  # (B, P), padded left
    completions: TokenBatch  # (R, T), padded right; ends with the end-of-sequence token unless cut off
    prompt_of: Tensor  # (R,)
    decisions: Tensor  # (R, T) bool: tokens that were drawn, not forced; the loss is over these
    allowed: Tensor | None  # (R, T, A) competing token ids, -1 filled; None: the whole vocabulary
    finished: Tensor  # (R,) bool: ended by itself within the length limit


class Sampler(ABC):
    """A rollout strategy. ``temperature`` is also that of the log-probabilities in the loss."""

    constrained: bool
    temperature: float
    max_new_tokens: int | None  # the longest completion; None: as long as the longest answer

    @abstractmethod
    def __call__(
        self,
        model: torch.nn.Module,
        prompts: TokenBatch,
        group_size: int,
        generator: torch.Generator,
        answers: Sequence[Sequence[Sequence[int]]],
        end_token: int,
    ) -> Rollouts:
        """Draw ``group_size`` completions for each of B prompts.

        Args:
            model: a causal language model.
            prompts: (B, P), padded left.
            group_size: G.
            generator: on the CPU; all draws come from it.
            answers: per prompt, the token ids of every candidate's answer with the end token (used by
                constrained rollouts only).
            end_token: the id that ends a completion.
        """
