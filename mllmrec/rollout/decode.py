"""One prefill per prompt, then step by step: shared by free and constrained rollouts and by generation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from mllmrec.engine.batches import TokenBatch


class Decoder:
    """Next-token logits for B * G rows that share B prompts; `advance` appends one token to every row."""

    def __init__(self, model: Any, prompts: TokenBatch, group_size: int) -> None:
        self._model, self._mask = model, prompts.mask.long()
        positions = (self._mask.cumsum(1) - 1).clamp_min(0)
        out = model(
            input_ids=prompts.ids,
            attention_mask=self._mask,
            position_ids=positions,
            past_key_values=DynamicCache(config=model.config),
            use_cache=True,
            logits_to_keep=1,
        )
        self._cache = out.past_key_values
        self._next_position = self._mask.sum(1).repeat_interleave(group_size)
        self.logits: Tensor = out.logits[:, -1].float().repeat_interleave(group_size, 0)  # (R, V)
        self._group_size = group_size
        self._expanded = group_size == 1

    def advance(self, tokens: Tensor) -> None:
        """Append ``tokens`` (R,) and compute the logits that follow them."""
        if not self._expanded:
            self._cache.batch_repeat_interleave(self._group_size)
            self._mask = self._mask.repeat_interleave(self._group_size, 0)
            self._expanded = True
        self._mask = torch.cat([self._mask, torch.ones_like(self._mask[:, :1])], 1)
        out = self._model(
            input_ids=tokens[:, None],
            attention_mask=self._mask,
            position_ids=self._next_position[:, None],
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self._next_position = self._next_position + 1
        self.logits = out.logits[:, -1].float()


def draw(logits: Tensor, generator: torch.Generator, temperature: float = 1.0, top_p: float = 1.0) -> Tensor:
    """Draw one token per row by inverse CDF; (R, V) → (R,).

    ``temperature`` 0 takes the most likely token. ``top_p`` keeps the smallest set of most likely tokens whose
    probability reaches it (Holtzman et al. 2020). One uniform number per row is taken from ``generator`` (on the
    CPU), so the draw depends on the device only through rounding.
    """
    if temperature == 0:
        return logits.argmax(-1)
    probabilities = torch.softmax(logits.double() / temperature, -1)
    uniform = torch.rand(len(logits), 1, generator=generator, dtype=torch.float64).to(logits.device)
    if top_p >= 1:
        return _inverse_cdf(probabilities, uniform)
    ordered, order = probabilities.sort(-1, descending=True)
    outside = ordered.cumsum(-1) - ordered >= top_p
    return order.gather(1, _inverse_cdf(ordered.masked_fill(outside, 0.0), uniform)[:, None])[:, 0]


def _inverse_cdf(weights: Tensor, uniform: Tensor) -> Tensor:
    cumulative = weights.cumsum(-1)
    index = torch.searchsorted(cumulative, uniform * cumulative[:, -1:], right=True)[:, 0]
    # A uniform number within rounding of 1 may pass the end; the last token with any weight is the right one.
    last = weights.shape[1] - 1 - (weights.flip(-1) > 0).int().argmax(-1)
    return torch.minimum(index, last)
