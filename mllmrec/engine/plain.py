"""The plain engine: every distinct prompt + completion runs through the model as a separate sequence.

It is the reference that faster engines must agree with.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.modeling_outputs import CausalLMOutputWithPast

from mllmrec.engine.base import (
    ChoiceSets,
    Decoder,
    Engine,
    TokenScores,
    competing_logits,
    positions_of,
    spread_of,
)
from mllmrec.engine.batches import TokenBatch

# What models, their outputs and generate call a cache. transformers 5.24 renamed it; the old name goes with 5.40.
CACHE = "cache" if "cache" in {field.name for field in fields(CausalLMOutputWithPast)} else "past_key_values"


class Plain(Engine):
    """Nothing is shared: an encoded prompt is the prompt itself."""

    reusable = False

    def encode(self, model: Any, prompts: TokenBatch) -> TokenBatch:
        """Return the (B, P) prompts, padded on the left, as they are."""
        return prompts

    def score(
        self,
        model: Any,
        encoded: TokenBatch,
        completions: TokenBatch,
        prompt_of: Tensor,
        *,
        scored: Tensor | None = None,
        choices: ChoiceSets | None = None,
        temperature: float = 1.0,
        entropy: bool = True,
        certainty: bool = False,
    ) -> TokenScores:
        """See `Engine.score`."""
        prompts = encoded
        scored = completions.mask if scored is None else scored & completions.mask
        rows, width = scored.shape
        places = scored.any(0).nonzero()
        if places.numel() == 0:
            empty = torch.zeros(rows, width, device=scored.device)
            return TokenScores(empty, empty)
        length = int(places.max()) + 1
        inputs = completions.ids[:, : length - 1].masked_fill(~completions.mask[:, : length - 1], -1)
        distinct, row_of = torch.unique(
            torch.cat([prompt_of[:, None], inputs], 1), dim=0, return_inverse=True
        )
        source = distinct[:, 0]
        tail_mask = distinct[:, 1:] >= 0
        ids = torch.cat([prompts.ids[source], distinct[:, 1:].clamp_min(0)], 1)
        mask = torch.cat([prompts.mask[source], tail_mask], 1)
        logits = model(
            input_ids=ids,
            attention_mask=mask.long(),
            position_ids=positions_of(model, ids, mask),
            use_cache=False,
            logits_to_keep=length,
        ).logits
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if temperature != 1.0:
            logits = logits / temperature
        wanted = scored[:, :length]
        row, place = wanted.nonzero(as_tuple=True)
        at_place = logits[row_of[row], place]
        chosen = at_place.gather(1, completions.ids[row, place, None])[:, 0]
        set_of = torch.full_like(row, -1) if choices is None else choices.set_of[row, place]
        logprobs, spread = torch.zeros_like(chosen), torch.zeros_like(chosen)
        for part in ((set_of < 0).nonzero()[:, 0], (set_of >= 0).nonzero()[:, 0]):
            if len(part) == 0:
                continue
            competing = at_place[part]
            if choices is not None and bool(set_of[part[0]] >= 0):
                competing = competing_logits(competing, choices.tokens, set_of[part])
            normaliser = torch.logsumexp(competing, -1)
            logprobs = logprobs.index_copy(0, part, chosen[part] - normaliser)
            own = spread_of(competing, normaliser, entropy, certainty)
            spread = spread.index_copy(0, part, own)
        zeros = logprobs.new_zeros(rows, width)
        return TokenScores(zeros.index_put((row, place), logprobs), zeros.index_put((row, place), spread))

    def decoder(self, model: Any, encoded: TokenBatch, group_size: int) -> Decoder:
        """See `Engine.decoder`."""
        return PlainDecoder(model, encoded, group_size)


class PlainDecoder(Decoder):
    """Copies the prompts' cache G times, as generation libraries do."""

    def __init__(self, model: Any, prompts: TokenBatch, group_size: int) -> None:
        """Run the prompts and make G rows of each."""
        self._model = model
        self._cache = DynamicCache(config=model.config)
        self._mask = prompts.mask.long()
        positions = positions_of(model, prompts.ids, prompts.mask)
        self._next = positions[..., -1] + 1
        self._run(prompts.ids, positions)
        if group_size > 1:
            self._cache.batch_repeat_interleave(group_size)
        self._mask = self._mask.repeat_interleave(group_size, 0)
        self._next = self._next.repeat_interleave(group_size, -1)
        self.logits = self.logits.repeat_interleave(group_size, 0)

    def advance(self, tokens: Tensor) -> None:
        """Append ``tokens`` (rows,) and compute the logits that follow them."""
        self._mask = torch.cat([self._mask, torch.ones_like(self._mask[:, :1])], 1)
        self._run(tokens[:, None], self._next[..., None])
        self._next = self._next + 1

    def keep(self, rows: Tensor) -> None:
        """Continue with only these rows."""
        self._cache.batch_select_indices(rows)
        self._mask, self._next, self.logits = self._mask[rows], self._next[..., rows], self.logits[rows]

    @torch.no_grad()
    def _run(self, ids: Tensor, positions: Tensor) -> None:
        self.logits = (
            self._model(
                input_ids=ids,
                attention_mask=self._mask,
                position_ids=positions,
                use_cache=True,
                logits_to_keep=1,
                **{CACHE: self._cache},
            )
            .logits[:, -1]
            .float()
        )
