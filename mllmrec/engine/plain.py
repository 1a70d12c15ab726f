"""The plain engine: every distinct prompt + completion goes through the model as one sequence of its own.

It is the reference that faster engines must agree with.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mllmrec.engine.batches import TokenBatch


class TokenScores(NamedTuple):
    """Per completion token, (R, T); zero where the mask that was asked for is off."""

    logprobs: Tensor
    entropy: Tensor  # nats, of the distribution that the token was drawn from; carries no gradient


def completion_scores(
    model: torch.nn.Module,
    prompts: TokenBatch,
    completions: TokenBatch,
    prompt_of: Tensor,
    *,
    scored: Tensor | None = None,
    allowed: Tensor | None = None,
    temperature: float = 1.0,
) -> TokenScores:
    """Log-probabilities of completions given their prompts.

    Args:
        model: a causal language model that takes ``logits_to_keep``.
        prompts: (B, P), padded on the left.
        completions: (R, T), padded on the right.
        prompt_of: (R,) row of the prompt that each completion answers.
        scored: (R, T) bool, the tokens wanted; None: all real ones. Tokens after the last one wanted are not
            run through the model, and rows that are equal up to there are run once.
        allowed: (R, T, A) token ids that compete for each place, filled up with -1; probabilities are
            renormalised over them. None: the whole vocabulary competes.
        temperature: divides the logits.

    Returns:
        `TokenScores` of shape (R, T).
    """
    scored = completions.mask if scored is None else scored & completions.mask
    rows, width = scored.shape
    places = scored.any(0).nonzero()
    if places.numel() == 0:
        empty = torch.zeros(rows, width, device=scored.device)
        return TokenScores(empty, empty)
    length = int(places.max()) + 1
    inputs = completions.ids[:, : length - 1].masked_fill(~completions.mask[:, : length - 1], -1)
    distinct, row_of = torch.unique(torch.cat([prompt_of[:, None], inputs], 1), dim=0, return_inverse=True)
    source = distinct[:, 0]
    tail_mask = distinct[:, 1:] >= 0
    ids = torch.cat([prompts.ids[source], distinct[:, 1:].clamp_min(0)], 1)
    mask = torch.cat([prompts.mask[source], tail_mask], 1)
    positions = (mask.long().cumsum(1) - 1).clamp_min(0)
    logits = model(
        input_ids=ids,
        attention_mask=mask.long(),
        position_ids=positions,
        use_cache=False,
        logits_to_keep=length,
    ).logits
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if temperature != 1.0:
        logits = logits / temperature
    targets = completions.ids[:, :length]
    wanted = scored[:, :length]
    place = torch.arange(length, device=logits.device)
    chosen = logits[row_of[:, None], place, targets]
    if allowed is None:
        normaliser = torch.logsumexp(logits, -1)[row_of]
        entropy = _entropy(logits.detach())[row_of]
    else:
        open_tokens = allowed[:, :length]
        competing = logits[row_of[:, None, None], place[:, None], open_tokens.clamp_min(0)]
        competing = competing.masked_fill(open_tokens < 0, float("-inf"))
        # Unscored places may have no allowed token at all; a finite value keeps NaN out of their gradient.
        competing = torch.where(wanted[..., None], competing, 0.0)
        normaliser = torch.logsumexp(competing, -1)
        entropy = _entropy(competing.detach())
    logprobs = torch.where(wanted, chosen - normaliser, 0.0)
    entropy = torch.where(wanted, entropy, 0.0)
    padding = (0, width - length)
    return TokenScores(torch.nn.functional.pad(logprobs, padding), torch.nn.functional.pad(entropy, padding))


def _entropy(logits: Tensor) -> Tensor:
    logprobs = torch.log_softmax(logits, -1)
    return -(logprobs.exp() * logprobs.clamp_min(torch.finfo(logprobs.dtype).min)).sum(-1)
