"""The layers of well-known decoders in few operations, for rollouts.

A decode step has few rows, so hundreds of small operations take longer than its products. Here queries, keys and values come
from one product, and activations, residual sums and adapters cost nothing beside the products. It runs the model's own
weights as they are when it is made, in single precision on a CPU. Everything else runs layer by layer, as transformers does.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from mllmrec.engine.attention import window_of
from mllmrec.engine.layers import FastLayers
from mllmrec.engine.products import Packed, recurring

# Decoders whose layers are: norm, attention with rotary positions, sum, norm, gated SiLU, sum.
_FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
_PARTS = ("DecoderLayer", "Attention", "MLP", "RMSNorm", "RMSNorm")
# A second copy of so many weights is kept for the rollout (1 GiB). Products with more of them wait for memory anyway.
_COPIES_AT_MOST = 1 << 28


class Rows(Protocol):
    """Attention of one new token of each row; it keeps the token's key and value."""

    def attend_rows(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        """(N, H, D), (N, KV, D), (N, KV, D) → (N, H * D)."""
        ...


class Fused:
    """A decoder's layers and head as of now; see the module."""

    def __init__(self, decoder: Any, head: Any, layers: FastLayers) -> None:
        """Lay all weights out.

        Args:
            decoder: the layers between embeddings and head, such as `fused_decoder` takes.
            head: the output embeddings.
            layers: which single product each linear layer is.
        """
        blocks = decoder.layers[: decoder.config.num_hidden_layers]
        weights = [layers.weight(module) for module in decoder.modules() if layers.weight(module) is not None]
        copies = sum(weight.numel() for weight in weights if weight is not None) <= _COPIES_AT_MOST
        self._decoder = decoder
        self._blocks = [_Block(block, layers, copies) for block in blocks]
        self._head = Packed(head.weight, head.bias, copies=copies)

    def logits(self, ids: Tensor, positions: Tensor, rows: Rows) -> Tensor:
        """Run one new token of each row; (N,), (N,) → (N, V)."""
        count = len(ids)
        spare = recurring(count) - count
        if spare:
            ids, positions = functional.pad(ids, (0, spare)), functional.pad(positions, (0, spare))
        hidden = self._decoder.embed_tokens(ids)
        cos, sin = (part[0, :, None] for part in self._decoder.rotary_emb(hidden, positions[None]))
        first, second = sin.chunk(2, -1)
        turn = (cos, torch.cat([-first, second], -1))
        for number, block in enumerate(self._blocks):
            hidden = block(hidden, turn, number, rows, count)
        return self._head(_norm(hidden, self._decoder.norm))[:count]


class _Block:
    """One layer."""

    def __init__(self, layer: Any, layers: FastLayers, copies: bool) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self._layer, self._scaling, self._size = layer, float(attention.scaling), int(attention.head_dim)
        parts = [attention.q_proj, attention.k_proj, attention.v_proj]
        weights = [_weight(part, layers) for part in parts]
        given = [part.bias for part in parts]
        bias = None if given[0] is None else torch.cat(given)
        self._in = Packed(torch.cat(weights), bias, copies=copies)
        self._heads, self._kv_heads = (len(weight) // self._size for weight in weights[:2])
        self._out, self._gate, self._up, self._down = (
            Packed(_weight(part, layers), part.bias, copies=copies)
            for part in (attention.o_proj, mlp.gate_proj, mlp.up_proj, mlp.down_proj)
        )
        self._factors: Tensor | None = None  # of normed queries and keys, (H + KV, D)
        if hasattr(attention, "q_norm"):
            queries, keys = attention.q_norm.weight, attention.k_norm.weight
            self._epsilon = attention.q_norm.variance_epsilon
            self._factors = torch.cat([queries.expand(self._heads, -1), keys.expand(self._kv_heads, -1)])

    def __call__(
        self, hidden: Tensor, turn: tuple[Tensor, Tensor], number: int, rows: Rows, count: int
    ) -> Tensor:
        """(N, h) → (N, h); the first ``count`` of N tokens are real."""
        found = self._in(_norm(hidden, self._layer.input_layernorm)).view(len(hidden), -1, self._size)
        if count < len(hidden):
            found, turn = found[:count], (turn[0][:count], turn[1][:count])
        turned = self._heads + self._kv_heads
        both, value = found[:, :turned], found[:, turned:]
        if self._factors is not None:
            both = functional.rms_norm(both, (self._size,), None, self._epsilon) * self._factors
        # rotate_half(x) * sin = roll(x, D / 2) * sin, with the first half of sin negated
        both = torch.addcmul(both * turn[0], both.roll(self._size // 2, -1), turn[1])
        attended = rows.attend_rows(
            number, both[:, : self._heads], both[:, self._heads :], value, self._scaling
        )
        if count < len(hidden):
            attended = functional.pad(attended, (0, 0, 0, len(hidden) - count))
        hidden = self._out.plus(attended, hidden)
        normed = _norm(hidden, self._layer.post_attention_layernorm)
        return self._down.plus(self._up.times(normed, self._gate.silu(normed)), hidden)


@torch.no_grad()
def fused_decoder(model: Any, layers: FastLayers) -> Fused | None:
    """The layers of a causal language model with or without adapters; None if they have to run one by one."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    decoder, head = base.get_decoder(), model.get_output_embeddings()
    if hasattr(base, "decoder_inputs") or window_of(model) is not None or type(head) is not torch.nn.Linear:
        return None
    if not all(_known(layer, layers) for layer in decoder.layers) or any(map(_is_hooked, decoder.modules())):
        return None
    weights = {(weight.dtype, weight.device.type) for weight in decoder.parameters()}
    if weights != {(torch.float32, "cpu")} or torch.is_autocast_enabled("cpu"):
        return None
    return Fused(decoder, head, layers)


def _known(layer: Any, layers: FastLayers) -> bool:
    norms = (layer.input_layernorm, layer.post_attention_layernorm) if hasattr(layer, "mlp") else ()
    parts = (layer, layer.self_attn, layer.mlp, *norms) if norms else (layer,)
    homes = {f"transformers.models.{family}.modeling_{family}" for family in _FAMILIES}
    if any(type(part).__module__ not in homes for part in parts) or len(parts) < len(_PARTS):
        return False
    if not all(type(part).__name__.endswith(end) for part, end in zip(parts, _PARTS, strict=True)):
        return False
    if (
        not isinstance(layer.mlp.act_fn, torch.nn.SiLU)
        and type(layer.mlp.act_fn).__name__ != "SiLUActivation"
    ):
        return False
    attention, mlp = layer.self_attn, layer.mlp
    linear = (attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj)
    return all(
        layers.weight(part) is not None for part in (*linear, mlp.gate_proj, mlp.up_proj, mlp.down_proj)
    )


def _is_hooked(module: Any) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module))


def _weight(layer: Any, layers: FastLayers) -> Tensor:
    weight = layers.weight(layer)
    assert weight is not None
    return weight


def _norm(hidden: Tensor, norm: Any) -> Tensor:
    return functional.rms_norm(hidden, (hidden.shape[-1],), norm.weight, norm.variance_epsilon)
