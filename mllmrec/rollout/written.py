"""Tokens that a server writes for a rollout, in place of a decoder of the policy's own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Wanted:
    """What is to be written behind each prompt: any tokens, until one ends the row."""

    opening: Sequence[int]  # stands behind each prompt and is not drawn
    limit: int  # the most tokens of a row
    end: int  # the token that ends a row
    temperature: float  # 0: each token is the most likely one
    top_p: float = 1.0
    stop: str | None = None  # a text that ends a row too


@dataclass(frozen=True)
class Written:
    """R rows, prompt by prompt; a row's last token is the end token, or completes the stop text, or is at the limit."""

    rows: Sequence[Sequence[int]]  # drawn tokens
    logprobs: Sequence[Sequence[float]]  # of each token, under whoever drew it

    def __post_init__(self) -> None:
        if [len(row) for row in self.rows] != [len(row) for row in self.logprobs]:
            raise ValueError("a row has another number of log-probabilities than of tokens")


def behaviour_of(logprobs: Sequence[Sequence[float]], first: int, like: Tensor) -> Tensor:
    """Log-probabilities at their places in rows of tokens.

    Args:
        logprobs: of R rows.
        first: the place of each row's first drawn token.
        like: (R, T) the tokens.

    Returns:
        (R, T) float32 on the device of the tokens; NaN where the server drew nothing.
    """
    found = torch.full(like.shape, math.nan)
    for row, values in enumerate(logprobs):
        found[row, first : first + len(values)] = torch.tensor(list(values))
    return found.to(like.device)
