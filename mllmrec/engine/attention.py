"""Attention to a shared prefix, for any Hugging Face decoder.

The queries of all completions of a prompt attend to the prompt's keys and values in place. Completions and grouped query
heads are folded into the query length, so no part of the prefix is copied. Attention to the completion's own tokens is
computed separately, and the parts are merged exactly through their log-sum-exps. The backward pass runs each part's own
backward with the merged output and log-sum-exp (as ring attention does, Liu et al. 2023), so no part keeps attention weights.

Every configuration names the engine, and the check of a configuration imports it. So transformers, which takes seconds to
import, is imported only when there is a model.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from mllmrec.engine.products import recurring
from mllmrec.errors import UserError

NAME = "mllmrec_shared_prefix"


class AttentionPass(Protocol):
    """Replaces a model's attention during one forward over N packed tokens."""

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        """(1, H, N, D), (1, KV, N, D), (1, KV, N, D) → (1, N, H, D)."""
        ...


def install(model: Any) -> None:
    """Make a Hugging Face model's attention use the ``attention_pass`` given to its forward; without one it uses SDPA.

    Raises:
        UserError: the engine does not support the model's kind of attention.
    """
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    config = model.config.get_text_config()
    if config._attn_implementation == NAME:
        return
    kinds = set(getattr(config, "layer_types", None) or ()) - {"full_attention"}
    if window_of(model) is not None:
        kinds -= {"sliding_attention"}
    strange = [f"layers of type {kind}" for kind in sorted(kinds)]
    if getattr(config, "use_bidirectional_attention", None):
        strange.append(f"use_bidirectional_attention={config.use_bidirectional_attention}")
    for name in ("logits_scaling", "logit_scale", "final_logit_softcapping", "attn_logit_softcapping"):
        if getattr(config, name, None) not in (None, 1, 1.0):
            strange.append(f"{name}={getattr(config, name)}")
    if strange:
        raise UserError(
            f"engine=shared_prefix cannot run {type(model).__name__} with {', '.join(strange)}: use engine=plain"
        )
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    AttentionInterface.register(NAME, _attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    base.set_attn_implementation(NAME)


def window_of(model: Any) -> int | None:
    """The tokens that sliding attention sees at once: in shorter sequences it is full attention. None if nothing slides."""
    return _window_in(model.config.get_text_config())


def _window_in(config: Any) -> int | None:
    kinds = getattr(config, "layer_types", None)
    return None if kinds and "sliding_attention" not in kinds else getattr(config, "sliding_window", None)


def run_layers(model: Any, ids: Tensor, positions: Tensor, attention_pass: AttentionPass) -> Tensor:
    """Run N packed tokens through the decoder's layers.

    Args:
        model: a causal language model, with or without adapters.
        ids: (N,).
        positions: (N,), or (3, N) in time, height and width.
        attention_pass: decides what the tokens attend to.

    Returns:
        (N, h) hidden states after the last norm.

    Raises:
        UserError: the engine does not support the model, or a prompt with its completion outgrows the sliding window.
    """
    install(model)
    window = window_of(model)
    if window is not None and len(ids) and (latest := int(positions.max())) >= window:
        raise UserError(
            f"engine=shared_prefix cannot run {latest + 1} tokens of a prompt and its answer through {type(model).__name__} "
            f"with sliding_window={window}: use engine=plain"
        )
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    # transformers takes a mask of four dimensions as it is. Without one it would read restarted positions as a packed
    # batch of separate sequences and build an N x N mask.
    unused = torch.empty(1, 1, 1, 1, device=ids.device)
    tokens = len(ids)
    spare = recurring(tokens) - tokens if ids.device.type == "cpu" else 0
    if spare:
        ids, positions = functional.pad(ids, (0, spare)), functional.pad(positions, (0, spare))
        attention_pass = _Spared(attention_pass, tokens, spare)
    # Ids of images stand for more than an embedding.
    inputs = base.decoder_inputs(ids[None]) if hasattr(base, "decoder_inputs") else {"input_ids": ids[None]}
    hidden = base.get_decoder()(
        **inputs,
        position_ids=positions[..., None, :],
        attention_mask=unused,
        use_cache=False,
        attention_pass=attention_pass,
    ).last_hidden_state[0]
    return hidden[:tokens]


class _Spared:
    """Hides from attention the tokens that only round the number of rows up to a recurring one."""

    def __init__(self, inner: AttentionPass, tokens: int, spare: int) -> None:
        self.inner, self.tokens, self.spare = inner, tokens, spare

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        query, key, value = (tensor[:, :, : self.tokens] for tensor in (query, key, value))
        attended = self.inner.attend(layer, query, key, value, scaling)
        return functional.pad(attended, (0, 0, 0, 0, 0, self.spare))


def _attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    attention_pass: AttentionPass | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    if attention_pass is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    unknown = [name for name in ("sliding_window", "softcap", "s_aux") if kwargs.get(name) is not None]
    # `run_layers` has made sure that everything lies inside this window.
    if kwargs.get("sliding_window") == _window_in(module.config):
        unknown = [name for name in unknown if name != "sliding_window"]
    if unknown:
        raise UserError(f"engine=shared_prefix cannot attend with {', '.join(unknown)}: use engine=plain")
    if dropout:
        raise UserError(
            "engine=shared_prefix cannot run attention dropout: set attention_dropout to 0, or engine=plain"
        )
    # Under autocast, norms and rotary embeddings give single precision, and projections half.
    query, key = query.to(value.dtype), key.to(value.dtype)
    return attention_pass.attend(module.layer_idx, query, key, value, scaling), None


def causal(query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
    """Ordinary causal attention; a single query is the latest token and attends to all keys.

    (B, H, P, D), (B, KV, P, D), (B, KV, P, D) → (B, H, P, D).
    """
    groups = query.shape[1] // key.shape[1]
    return functional.scaled_dot_product_attention(
        query,
        _repeat_heads(key, groups),
        _repeat_heads(value, groups),
        is_causal=query.shape[2] > 1,
        scale=scaling,
    )


def with_prefix(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    prefix_key: Tensor,
    prefix_value: Tensor,
    prefix_bias: Tensor | None,
    scaling: float,
) -> Tensor:
    """Attention of B * A rows to their prompt's prefix and, causally, to their own tokens.

    Args:
        query: (B * A, H, T, D); row r belongs to prompt ``r // A``.
        key: (B * A, KV, S, D), the rows' own keys; S = T, or T = 1 with S earlier and present tokens.
        value: as ``key``.
        prefix_key: (B, KV, P, D).
        prefix_value: (B, KV, P, D).
        prefix_bias: (B, 1, 1, P) added to the scores, very negative where a shorter prompt has no token; or None.
        scaling: factor of the scores.

    Returns:
        (B * A, H, T, D).
    """
    return with_stores(query, key, value, [Store(prefix_key, prefix_value, prefix_bias)], scaling)


class Store(NamedTuple):
    """Keys and values of B sequences, each seen whole by the same number of rows."""

    keys: Tensor  # (B, KV, P, D)
    values: Tensor  # (B, KV, P, D)
    bias: Tensor | None  # (B, 1, 1, P), added to the scores
    # Two of (B, KV, P, D) to which the backward pass adds the gradients, in place; None: autograd gets them.
    gradients: tuple[Tensor, Tensor] | None = None


def with_stores(query: Tensor, key: Tensor, value: Tensor, stores: Sequence[Store], scaling: float) -> Tensor:
    """As `with_prefix`, for any number of stores, each with its own number of rows to a sequence."""
    if not stores:
        return causal(query, key, value, scaling)
    stored = [tensor for store in stores for tensor in (store.keys, store.values)]
    return _WithStores.apply(query, key, value, scaling, [store[2:] for store in stores], *stored)


class _WithStores(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        scaling: float,
        stores: list[tuple[Tensor | None, tuple[Tensor, Tensor] | None]],
        *stored: Tensor,
    ) -> Tensor:
        parts = []
        for (bias, _), far_key, far_value in zip(stores, stored[::2], stored[1::2], strict=True):
            far, far_lse = _part(_fold(query, far_key), far_key, far_value, bias, False, scaling)
            parts.append((_unfold(far, query), _unfold(far_lse[..., None], query)))
        near, near_lse = _part(*_own(query, key, value), None, query.shape[2] > 1, scaling)
        parts.append((near.reshape(query.shape), near_lse.reshape(*query.shape[:3], 1)))
        lse = reduce(torch.logaddexp, [part_lse for _, part_lse in parts])
        shares = [part * (part_lse - lse).exp() for part, part_lse in parts]
        out = reduce(torch.add, shares).to(query.dtype)
        ctx.save_for_backward(query, key, value, out, lse, *stored)
        ctx.scaling, ctx.stores = scaling, stores
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        query, key, value, out, lse, *stored = ctx.saved_tensors
        own_query, own_key, own_value = _own(query, key, value)
        of_query, near_key, near_value = _part_backward(
            gradient.reshape(own_query.shape),
            own_query,
            own_key,
            own_value,
            out.reshape(own_query.shape),
            lse.reshape(own_query.shape[:3]),
            None,
            query.shape[2] > 1,
            ctx.scaling,
        )
        of_query = of_query.reshape(query.shape)
        if own_key.shape != key.shape:
            near_key = near_key.unflatten(1, (key.shape[1], -1)).sum(2)
            near_value = near_value.unflatten(1, (key.shape[1], -1)).sum(2)
        of_stored: list[Tensor | None] = []
        for (bias, sinks), far_key, far_value in zip(ctx.stores, stored[::2], stored[1::2], strict=True):
            far, *of_far = _part_backward(
                _fold(gradient, far_key),
                _fold(query, far_key),
                far_key,
                far_value,
                _fold(out, far_key),
                _fold(lse, far_key)[..., 0],
                bias,
                False,
                ctx.scaling,
            )
            of_query = of_query + _unfold(far, query)
            if sinks is None:
                of_stored += of_far
                continue
            for sink, part in zip(sinks, of_far, strict=True):
                sink += part
            of_stored += [None, None]
        return of_query, near_key, near_value, None, None, *of_stored


def _own(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs of attention to a row's own tokens: one query token has its heads folded, more have their keys repeated."""
    rows, heads, width, size = query.shape
    if width == 1:
        return query.reshape(rows, key.shape[1], -1, size), key, value
    groups = heads // key.shape[1]
    return query, _repeat_heads(key, groups), _repeat_heads(value, groups)


def _repeat_heads(tensor: Tensor, groups: int) -> Tensor:
    return tensor if groups == 1 else tensor.repeat_interleave(groups, 1)


def _fold(tensor: Tensor, prefix_key: Tensor) -> Tensor:
    """(B * A, H, T, X) → (B, KV, H / KV * A * T, X)."""
    prompts, kv_heads = prefix_key.shape[:2]
    rows, heads, width, size = tensor.shape
    split = tensor.reshape(prompts, rows // prompts, kv_heads, heads // kv_heads, width, size)
    return split.permute(0, 2, 3, 1, 4, 5).reshape(prompts, kv_heads, -1, size)


def _unfold(tensor: Tensor, query: Tensor) -> Tensor:
    """The inverse of `_fold` for a tensor of ``query``'s rows, heads and width."""
    rows, heads, width, _ = query.shape
    prompts, kv_heads, _, size = tensor.shape
    split = tensor.reshape(prompts, kv_heads, heads // kv_heads, rows // prompts, width, size)
    return split.permute(0, 3, 1, 2, 4, 5).reshape(rows, heads, width, size)


def _part(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, is_causal: bool, scaling: float
) -> tuple[Tensor, Tensor]:
    """Attention and the log-sum-exp of its scores: (B, H, Q, D) and (B, H, Q)."""
    if query.device.type != "cpu":
        return _math_part(query, key, value, bias, is_causal, scaling)
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, 0.0, is_causal, attn_mask=_expanded(bias, query, key), scale=scaling
    )


def _part_backward(
    gradient: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    lse: Tensor,
    bias: Tensor | None,
    is_causal: bool,
    scaling: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of query, key and value; ``out`` and ``lse`` come from the merged attention."""
    if query.device.type != "cpu":
        return _math_part_backward(gradient, query, key, value, out, lse, bias, is_causal, scaling)
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
        gradient,
        query,
        key,
        value,
        out,
        lse,
        0.0,
        is_causal,
        attn_mask=_expanded(bias, query, key),
        scale=scaling,
    )


def _math_part(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, is_causal: bool, scaling: float
) -> tuple[Tensor, Tensor]:
    """`_part` in elementary operations, for devices without a kernel that returns the log-sum-exp."""
    scores = _scores(query, key, bias, is_causal, scaling)
    lse = torch.logsumexp(scores, -1)
    return (scores - lse[..., None]).exp().to(value.dtype) @ value, lse


def _math_part_backward(
    gradient: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    lse: Tensor,
    bias: Tensor | None,
    is_causal: bool,
    scaling: float,
) -> tuple[Tensor, Tensor, Tensor]:
    weights = (_scores(query, key, bias, is_causal, scaling) - lse[..., None]).exp()
    drift = (gradient.to(weights.dtype) * out.to(weights.dtype)).sum(-1, keepdim=True)
    scores = (weights * ((gradient @ value.mT).to(weights.dtype) - drift) * scaling).to(query.dtype)
    return scores @ key, scores.mT @ query, weights.to(value.dtype).mT @ gradient


def _scores(query: Tensor, key: Tensor, bias: Tensor | None, is_causal: bool, scaling: float) -> Tensor:
    scores = (query @ key.mT) * scaling
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    if bias is not None:
        scores = scores + bias
    if is_causal:
        later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(later, float("-inf"))
    return scores


def _expanded(bias: Tensor | None, query: Tensor, key: Tensor) -> Tensor | None:
    if bias is None:
        return None
    return bias.to(query.dtype).expand(*query.shape[:3], key.shape[2])
