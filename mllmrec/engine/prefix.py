"""Encoded prompts, and attention to them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from mllmrec.engine.attention import causal, with_prefix
from mllmrec.engine.layers import FastLayers


@dataclass(frozen=True)
class Prefix:
    """B encoded prompts without their last tokens; P is the length of the longest of them."""

    keys: list[Tensor]  # per layer (B, KV, P, D); empty if all prompts are a single token
    values: list[Tensor]  # per layer (B, KV, P, D)
    places: Tensor  # (B,) positions of the prompts' last tokens, or (3, B); see `positions_of`
    last: Tensor  # (B,) the prompts' last tokens
    bias: Tensor | None  # (B, 1, 1, P) hides the padding of shorter prompts; None if there is none
    layers: FastLayers  # the layers as of the encoding of the prompts


def attend_after(
    prefix: Prefix, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float
) -> Tensor:
    """`with_prefix` to encoded prompts; prompts of a single token have nothing to attend to."""
    if not prefix.keys:
        return causal(query, key, value, scaling)
    return with_prefix(query, key, value, prefix.keys[layer], prefix.values[layer], prefix.bias, scaling)
