"""The interface of engines: they encode prompts, score completions against them, and continue rows from them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mllmrec.engine.batches import TokenBatch


class TokenScores(NamedTuple):
    """Scores per completion token, (R, T); zero outside the requested mask."""

    logprobs: Tensor
    # Nats, entropy of the distribution that the token was drawn from, or its certainty if that was asked for; carries no
    # gradient.
    entropy: Tensor


class ChoiceSets(NamedTuple):
    """Which tokens compete for each place of R completions; places may share a set."""

    set_of: Tensor  # (R, T) int64, row of ``tokens``; -1 where the whole vocabulary competes
    tokens: Tensor  # (S, A) int64, token ids, filled up with -1

    def rows(self, part: slice | Tensor) -> ChoiceSets:
        """The sets of some completions."""
        return ChoiceSets(self.set_of[part], self.tokens)

    def to(self, device: torch.device | str) -> ChoiceSets:
        """The same sets on another device."""
        return ChoiceSets(self.set_of.to(device), self.tokens.to(device))


class Decoder(ABC):
    """Next-token logits of rows that continue encoded prompts."""

    logits: Tensor  # (rows, V) float32

    @abstractmethod
    def advance(self, tokens: Tensor) -> None:
        """Append ``tokens`` (rows,) and compute the logits that follow them."""

    @abstractmethod
    def keep(self, rows: Tensor) -> None:
        """Continue with only the rows at these positions, in ascending order."""


class Engine(ABC):
    """One way to run a causal language model on B prompts with R completions.

    All engines compute the same numbers and gradients; they differ in how much they compute more than once.
    """

    # Whether both rollout and update can use prompts that were encoded with gradients.
    reusable: bool
    # Whether an encoded prompt may go on with images.
    continues_images: bool = True

    def longest(self, model: Any) -> int | None:
        """The most tokens of a prompt and its completion; None: as many as the model takes."""
        return None

    @abstractmethod
    def encode(self, model: Any, prompts: TokenBatch) -> Any:
        """Encode B prompts once for all later calls; with gradients where they are on."""

    @abstractmethod
    def score(
        self,
        model: Any,
        encoded: Any,
        completions: TokenBatch,
        prompt_of: Tensor,
        *,
        scored: Tensor | None = None,
        choices: ChoiceSets | None = None,
        temperature: float = 1.0,
        entropy: bool = True,
        certainty: bool = False,
    ) -> TokenScores:
        """Log-probabilities and entropies of the tokens of R completions.

        Args:
            model: the model that encoded the prompts.
            encoded: what `encode` returned.
            completions: (R, T), padded on the right.
            prompt_of: (R,) row of the prompt that each completion answers.
            scored: (R, T) bool, the tokens to score; None: all real ones. Tokens after the last scored one do not run
                through the model, and rows that are equal up to that token run once.
            choices: the tokens that compete for each place; probabilities are renormalised over them. None: the
                whole vocabulary competes for every place.
            temperature: divides the logits.
            entropy: whether to compute entropies; if not, they are zeros.
            certainty: compute `certainty_of` in place of the entropies.

        Returns:
            `TokenScores` of shape (R, T).
        """

    @abstractmethod
    def decoder(self, model: Any, encoded: Any, group_size: int) -> Decoder:
        """A decoder of B * G rows without gradients; row r continues prompt ``r // G``."""


def positions_of(model: Any, ids: Tensor, mask: Tensor) -> Tensor:
    """Each token's position for rotary embeddings: counted without padding, or as the model itself counts.

    Args:
        model: if it has ``token_positions(ids, mask)``, it counts its own positions, as Qwen3-VL does for images.
        ids: (B, L).
        mask: (B, L) bool.

    Returns:
        (B, L), or (3, B, L) for positions in time, height and width.
    """
    own = getattr(model, "token_positions", None)
    if own is not None:
        return own(ids, mask)
    return (mask.long().cumsum(1) - 1).clamp_min(0)


def competing_logits(logits: Tensor, sets: Tensor, set_of: Tensor) -> Tensor:
    """The logits of each place's competitors.

    Args:
        logits: (M, U).
        sets: (S, A) columns of ``logits``, filled up with -1.
        set_of: (M,) row of ``sets``; every place must have a set.

    Returns:
        (M, A), -inf where a set has fewer than A tokens.
    """
    columns = sets[set_of]
    return logits.gather(1, columns.clamp_min(0)).masked_fill(columns < 0, float("-inf"))


def entropy_of(logits: Tensor, normaliser: Tensor) -> Tensor:
    """Entropy in nats over the last dimension, without gradient; (M, A), (M,) log-sum-exps → (M,).

    Logits may be -inf.
    """
    logits, normaliser = logits.detach(), normaliser.detach()
    probabilities = (logits - normaliser[:, None]).exp_()
    finite = logits.clamp_min(torch.finfo(logits.dtype).min)
    return normaliser - torch.linalg.vecdot(probabilities, finite)


def certainty_of(logits: Tensor, normaliser: Tensor) -> Tensor:
    """Self-certainty (Kang et al. 2025, arXiv 2502.18581) in nats: KL from the uniform distribution to the model's.

    It is 0 where all tokens are equally likely, and grows with every token that is unlikely; logits of -inf do not compete.

    Args:
        logits: (M, A), of which A' compete.
        normaliser: (M,) log-sum-exps.

    Returns:
        (M,) -log A' - the mean log-probability of the A' tokens, without gradient.
    """
    logits, normaliser = logits.detach(), normaliser.detach()
    there = logits > float("-inf")
    count = there.sum(-1).to(logits.dtype)
    return normaliser - logits.where(there, 0.0).sum(-1) / count - count.log()


def spread_of(logits: Tensor, normaliser: Tensor, entropy: bool, certainty: bool) -> Tensor:
    """(M,) what `Engine.score` returns beside log-probabilities: `certainty_of`, `entropy_of` or zeros."""
    if certainty:
        return certainty_of(logits, normaliser)
    return entropy_of(logits, normaliser) if entropy else torch.zeros_like(normaliser)
