"""From hidden states to log-probabilities, in chunks, so that memory never holds tokens x vocabulary as a whole."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from mllmrec.engine.base import competing_logits, spread_of
from mllmrec.engine.products import linear

# Logits in one chunk: 64 MiB in single precision.
_CHUNK = 1 << 24


def token_logprobs(
    hidden: Tensor,
    head: Any,
    places: Tensor,
    targets: Tensor,
    *,
    temperature: float = 1.0,
    entropy: bool = True,
    certainty: bool = False,
    chunk: int = _CHUNK,
) -> tuple[Tensor, Tensor]:
    """Log-probabilities over the whole vocabulary.

    Args:
        hidden: (N, h) last hidden states.
        head: the model's output embeddings.
        places: (M,) row of ``hidden`` before each target; a row that several targets share is projected once.
        targets: (M,) token ids.
        temperature: divides the logits.
        entropy: whether to compute entropies; if not, they are zeros.
        certainty: compute `certainty_of` in place of the entropies.
        chunk: the most logits in memory at once; if there are more, the backward pass computes them again.

    Returns:
        (M,) log-probabilities and (M,) entropies without gradient, in single precision or better.
    """
    distinct, inverse = places.unique(return_inverse=True)
    order = inverse.argsort(stable=True)
    size = max(1, chunk // _vocabulary(head))
    pieces: list[tuple[Tensor, Tensor]] = []
    # With sorted places each chunk's targets are contiguous, and one transfer tells the host where they end.
    ends = torch.searchsorted(
        inverse[order], torch.arange(size, len(distinct) + size, size, device=places.device)
    ).tolist()
    start = 0
    for index, end in enumerate(ends):
        rows = distinct[index * size : (index + 1) * size]
        picked = order[start:end]
        arguments = (
            hidden[rows],
            head,
            inverse[picked] - index * size,
            targets[picked],
            temperature,
            entropy,
            certainty,
        )
        if len(ends) > 1 and torch.is_grad_enabled():
            pieces.append(checkpoint(_whole_vocabulary, *arguments, use_reentrant=False))
        else:
            pieces.append(_whole_vocabulary(*arguments))
        start = end
    back = torch.empty_like(order)
    back[order] = torch.arange(len(order), device=order.device)
    logprobs, entropies = (torch.cat(parts)[back] for parts in zip(*pieces, strict=True))
    return logprobs, entropies


def competing_logprobs(
    hidden: Tensor,
    head: Any,
    places: Tensor,
    targets: Tensor,
    sets: Tensor,
    set_of: Tensor,
    *,
    temperature: float = 1.0,
    entropy: bool = True,
    certainty: bool = False,
) -> tuple[Tensor, Tensor]:
    """Log-probabilities renormalised over a set of competitors for each place.

    Only tokens that compete at some place are projected.

    Args:
        hidden: (N, h).
        head: the model's output embeddings.
        places: (M,) row of ``hidden``; the same row always has the same set.
        targets: (M,) token ids, each in its place's set.
        sets: (S, A) token ids, filled up with -1.
        set_of: (M,) row of ``sets``.
        temperature: divides the logits.
        entropy: whether to compute entropies; if not, they are zeros.
        certainty: compute `certainty_of` in place of the entropies.

    Returns:
        As `token_logprobs`.
    """
    used, set_of = set_of.unique(return_inverse=True)
    sets = sets[used]
    tokens = sets[sets >= 0].unique()
    columns = torch.where(sets >= 0, torch.searchsorted(tokens, sets.clamp_min(0)), -1)
    distinct, inverse = places.unique(return_inverse=True)
    set_of_distinct = torch.empty_like(distinct).index_copy(0, inverse, set_of)
    logits = _logits(hidden[distinct], head, tokens, temperature)
    chosen = logits[inverse, torch.searchsorted(tokens, targets)]
    competing = competing_logits(logits, columns, set_of_distinct)
    normaliser = torch.logsumexp(competing, -1)
    spread = spread_of(competing, normaliser, entropy, certainty)
    return chosen - normaliser[inverse], spread[inverse]


def mixed_logprobs(
    hidden: Tensor,
    head: Any,
    places: Tensor,
    targets: Tensor,
    sets: Tensor | None,
    set_of: Tensor | None,
    *,
    temperature: float = 1.0,
    entropy: bool = True,
    certainty: bool = False,
) -> tuple[Tensor, Tensor]:
    """`competing_logprobs` where a place has a set of competitors, `token_logprobs` where it has none.

    Args:
        hidden: (N, h).
        head: the model's output embeddings.
        places: (M,) row of ``hidden``.
        targets: (M,) token ids.
        sets: (S, A) token ids, filled up with -1; None: no place has a set.
        set_of: (M,) row of ``sets``; -1: the whole vocabulary competes.
        temperature: divides the logits.
        entropy: whether to compute entropies; if not, they are zeros.
        certainty: compute `certainty_of` in place of the entropies.

    Returns:
        As `token_logprobs`.
    """
    how: dict[str, Any] = {"temperature": temperature, "entropy": entropy, "certainty": certainty}
    if sets is None or set_of is None or not bool((set_of >= 0).any()):
        return token_logprobs(hidden, head, places, targets, **how)
    free = (set_of < 0).nonzero()[:, 0]
    if len(free) == 0:
        return competing_logprobs(hidden, head, places, targets, sets, set_of, **how)
    few = (set_of >= 0).nonzero()[:, 0]
    whole = token_logprobs(hidden, head, places[free], targets[free], **how)
    among = competing_logprobs(hidden, head, places[few], targets[few], sets, set_of[few], **how)
    back = torch.cat([free, few]).argsort()
    logprobs, entropies = (torch.cat(parts)[back] for parts in zip(whole, among, strict=True))
    return logprobs, entropies


def _whole_vocabulary(
    hidden: Tensor,
    head: Any,
    rows: Tensor,
    targets: Tensor,
    temperature: float,
    entropy: bool,
    certainty: bool,
) -> tuple[Tensor, Tensor]:
    logits = _logits(hidden, head, None, temperature)
    normaliser = torch.logsumexp(logits, -1)
    spread = spread_of(logits, normaliser, entropy, certainty)
    return logits[rows, targets] - normaliser[rows], spread[rows]


def _logits(hidden: Tensor, head: Any, tokens: Tensor | None, temperature: float) -> Tensor:
    if temperature != 1.0 and getattr(head, "bias", None) is None:
        # The logits are the same, and dividing hidden states is cheaper than dividing logits.
        hidden, temperature = hidden / temperature, 1.0
    if tokens is None:
        logits = logits_of(hidden, head)
    elif type(head) is torch.nn.Linear:
        bias = None if head.bias is None else head.bias[tokens]
        logits = linear(hidden, head.weight[tokens], bias)
    else:  # an adapter or quantisation: only the head itself can compute its logits
        logits = head(hidden)[:, tokens]
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return logits if temperature == 1.0 else logits / temperature


def logits_of(hidden: Tensor, head: Any) -> Tensor:
    """(N, h) → (N, V)."""
    if type(head) is torch.nn.Linear:
        return linear(hidden, head.weight, head.bias)
    return head(hidden)


def _vocabulary(head: Any) -> int:
    return int(head.weight.shape[0])
