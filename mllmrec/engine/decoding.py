"""Rollouts token by token: B * G rows continue B encoded prompts."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from mllmrec.engine.attention import run_layers
from mllmrec.engine.base import Decoder
from mllmrec.engine.fused import Fused, fused_decoder
from mllmrec.engine.logprobs import logits_of
from mllmrec.engine.prefix import Prefix, attend_after


class SharedPrefixDecoder(Decoder):
    """Decodes B * G rows against B encoded prompts; a row's cache holds only its own tokens."""

    _PATIENCE = 8  # steps whose time `Fused` takes to lay all weights out; shorter answers run layer by layer

    def __init__(self, model: Any, prefix: Prefix, group_size: int) -> None:
        """Run each prompt's last token once, and let G rows continue from it."""
        self._model, self._prefix = model, prefix
        device = prefix.last.device
        self._prompt_of = torch.arange(len(prefix.last), device=device)
        self._step = _DecodePass(prefix, self._prompt_of)
        self._length = 0
        self._fused: Fused | None = None
        self.advance(prefix.last)
        self._select(self._prompt_of.repeat_interleave(group_size))

    @torch.no_grad()
    def advance(self, tokens: Tensor) -> None:
        """Append ``tokens`` (rows,) and compute the logits that follow them."""
        positions = self._prefix.places[..., self._prompt_of] + self._length
        if self._length == self._PATIENCE:
            self._fused = fused_decoder(self._model, self._prefix.layers)
        self._length += 1
        if self._fused is not None:
            self.logits = self._fused.logits(tokens, positions, self._step)
            return
        with self._prefix.layers.in_use():
            hidden = run_layers(self._model, tokens, positions, self._step)
        self.logits = logits_of(hidden, self._model.get_output_embeddings()).float()

    def keep(self, rows: Tensor) -> None:
        """Continue with only these rows."""
        self._select(rows)

    def _select(self, rows: Tensor) -> None:
        self._prompt_of = self._prompt_of[rows]
        self.logits = self.logits[rows]
        self._step.select(rows, self._prompt_of)


class _DecodePass:
    """Adds one token to every row: its key and value go into the row's cache, and it attends to prompt and cache."""

    _ROOM = 32  # a full cache grows by so many tokens

    def __init__(self, prefix: Prefix, prompt_of: Tensor) -> None:
        self.prefix = prefix
        self.cache: dict[int, tuple[Tensor, Tensor]] = {}  # per layer two of (rows, KV, room, D)
        self.lengths: dict[int, int] = {}
        self._place(prompt_of)

    def select(self, rows: Tensor, prompt_of: Tensor) -> None:
        """Keep some rows of the cache, in this order."""
        self.cache = {layer: (key[rows], value[rows]) for layer, (key, value) in self.cache.items()}
        self._place(prompt_of)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        query, key, value = (tensor[0].transpose(0, 1)[:, :, None] for tensor in (query, key, value))
        key, value = self._append(layer, key, value)
        if self._row_of_slot is not None:
            query, key, value = (tensor[self._row_of_slot] for tensor in (query, key, value))
        attended = attend_after(self.prefix, layer, query, key, value, scaling)
        if self._row_of_slot is not None:
            attended = attended[self._slot_of_row]
        return attended[:, :, 0][None]

    def attend_rows(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        """See `mllmrec.engine.fused.Rows`."""
        keys, values = self._append(layer, key[:, :, None], value[:, :, None])
        query = query * scaling
        if self._row_of_slot is not None:
            query, keys, values = (tensor[self._row_of_slot] for tensor in (query, keys, values))
        attended = _attend_rows(self.prefix, layer, query, keys, values)
        return attended if self._row_of_slot is None else attended[self._slot_of_row]

    def _append(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        length = self.lengths.get(layer, 0)
        if layer not in self.cache:
            self.cache[layer] = (key[:, :, :0], value[:, :, :0])
        keys, values = self.cache[layer]
        if length == keys.shape[2]:
            room = (0, 0, 0, self._ROOM)
            keys, values = functional.pad(keys, room), functional.pad(values, room)
            self.cache[layer] = (keys, values)
        keys[:, :, length], values[:, :, length] = key[:, :, 0], value[:, :, 0]
        self.lengths[layer] = length + 1
        return keys[:, :, : length + 1], values[:, :, : length + 1]

    def _place(self, prompt_of: Tensor) -> None:
        """Put the rows of each prompt together, in as many slots as the fullest prompt needs; spare slots repeat row 0."""
        prompts = len(self.prefix.last)
        counts = torch.bincount(prompt_of, minlength=prompts)
        slots = int(counts.max())
        self._row_of_slot: Tensor | None = None
        if prompts * slots > len(prompt_of):
            rows = torch.arange(len(prompt_of), device=prompt_of.device)
            self._slot_of_row = prompt_of * slots + rows - (counts.cumsum(0) - counts)[prompt_of]
            self._row_of_slot = torch.zeros(prompts * slots, dtype=torch.long, device=prompt_of.device)
            self._row_of_slot[self._slot_of_row] = rows


def _attend_rows(prefix: Prefix, layer: int, query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Attention of one token of each of B * A rows, by one softmax over the prompt's tokens and the row's own.

    Args:
        prefix: the encoded prompts.
        layer: the layer's number.
        query: (B * A, H, D), scaled.
        keys: (B * A, KV, T, D), the rows' own.
        values: as ``keys``.

    Returns:
        (B * A, H * D).
    """
    rows, heads, size = query.shape
    own = query.reshape(rows, keys.shape[1], -1, size)
    near = own @ keys.mT  # (B * A, KV, H / KV, T)
    if not prefix.keys:
        return (near.softmax(-1) @ values).reshape(rows, heads * size)
    far_keys, far_values = prefix.keys[layer], prefix.values[layer]
    prompts, kv_heads, width, _ = far_keys.shape
    shape = (prompts, rows // prompts, kv_heads, heads // kv_heads)
    # All rows of a prompt are one product with its keys: (B, KV, A * H / KV, P).
    far = own.view(*shape, size).transpose(1, 2).reshape(prompts, kv_heads, -1, size) @ far_keys.mT
    if prefix.bias is not None:
        far = far + prefix.bias
    near = near.view(*shape, -1).transpose(1, 2)
    weights = torch.cat([far.view(*near.shape[:-1], width), near], -1).softmax(-1)
    of_far = (weights[..., :width].flatten(2, 3) @ far_values).view(*near.shape[:-1], size).transpose(1, 2)
    of_near = weights[..., width:].transpose(1, 2) @ values.unflatten(0, shape[:2])
    return (of_far + of_near).reshape(rows, heads * size)
