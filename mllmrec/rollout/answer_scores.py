"""The exact probability of every possible answer, token by token, in one pass and without decoding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mllmrec.engine.base import ChoiceSets, Engine, TokenScores
from mllmrec.engine.batches import TokenBatch, pad
from mllmrec.prompts.trie import AnswerTrie, choice_sets

# Answer tokens that run through the model at once where gradients are off.
_TOKENS = 1 << 16


@dataclass(frozen=True)
class AnswerScores:
    """All answers of B prompts as R rows, prompt by prompt."""

    completions: TokenBatch  # (R, T), padded right, with the end token
    prompt_of: Tensor  # (R,)
    decisions: Tensor  # (R, T) bool: places where other answers continue differently
    choices: ChoiceSets
    scores: TokenScores  # (R, T), renormalised over the answers; zero where only one token is possible

    @property
    def logprobs(self) -> Tensor:
        """(R,) log-probability of each answer; the probabilities of one prompt's answers sum to one."""
        return self.scores.logprobs.sum(1)


def score_answers(
    engine: Engine,
    model: Any,
    encoded: Any,
    answers: Sequence[Sequence[Sequence[int]]],
    padding: int,
    device: torch.device,
    temperature: float = 1.0,
    entropy: bool = True,
) -> AnswerScores:
    """Score all answers of B prompts.

    Tokens that the trie of answers forces have probability 1. Those after the last choice do not run through the model.

    Args:
        engine: runs the model.
        model: a causal language model.
        encoded: the B prompts.
        answers: per prompt, token ids that end with the end token.
        padding: any token id.
        device: the device of the encoded prompts.
        temperature: divides the logits.
        entropy: whether to compute entropies.

    Raises:
        ValueError: two answers of a prompt are equal, or one is the beginning of another.
    """
    rows = [list(answer) for options in answers for answer in options]
    counts = torch.tensor([len(options) for options in answers])
    tries = [AnswerTrie(options) for options in answers]
    choices, decisions = choice_sets(
        [trie for trie, options in zip(tries, answers, strict=True) for _ in options], rows
    )
    completions = pad(rows, padding, side="right").to(device)
    prompt_of = torch.arange(len(answers)).repeat_interleave(counts).to(device)
    choices, decisions = choices.to(device), decisions.to(device)
    scores = score_rows(
        engine,
        model,
        encoded,
        completions,
        prompt_of,
        decisions,
        choices,
        temperature=temperature,
        entropy=entropy,
    )
    return AnswerScores(completions, prompt_of, decisions, choices, scores)


def score_rows(
    engine: Engine,
    model: Any,
    encoded: Any,
    completions: TokenBatch,
    prompt_of: Tensor,
    scored: Tensor,
    choices: ChoiceSets | None = None,
    *,
    temperature: float = 1.0,
    entropy: bool = True,
) -> TokenScores:
    """`Engine.score`, in several pieces if no graph is kept and there are many rows."""
    rows, width = scored.shape
    size = rows if torch.is_grad_enabled() else max(1, _TOKENS // max(width, 1))
    pieces = []
    for start in range(0, rows, size):
        part = slice(start, start + size)
        pieces.append(
            engine.score(
                model,
                encoded,
                TokenBatch(completions.ids[part], completions.mask[part]),
                prompt_of[part],
                scored=scored[part],
                choices=None if choices is None else choices.rows(part),
                temperature=temperature,
                entropy=entropy,
            )
        )
    if len(pieces) == 1:
        return pieces[0]
    return TokenScores(*(torch.cat(tensors) for tensors in zip(*pieces, strict=True)))
