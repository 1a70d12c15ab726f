"""Whole sequences through the layers without padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mllmrec.engine.attention import NAME, causal, install, run_layers, window_of
from mllmrec.engine.grid import Grid
from mllmrec.engine.layers import FastLayers
from mllmrec.errors import UserError


def packs(model: Any) -> bool:
    """Whether `last_hidden_states` computes exactly what the model computes from padded sequences."""
    config = model.config.get_text_config()
    if getattr(config, "attention_dropout", 0) or window_of(model) is not None:
        return False
    if config._attn_implementation not in ("sdpa", NAME) or hasattr(model, "decoder_inputs"):
        return False
    # Layers that run again in the backward pass would run there without `FastLayers`.
    if any(getattr(module, "gradient_checkpointing", False) for module in model.modules()):
        return False
    try:
        install(model)
    except UserError:
        return False
    return True


def last_hidden_states(model: Any, rows: Sequence[Tensor]) -> Tensor:
    """The last hidden states of B sequences, with gradients where they are on.

    Linear layers and norms run on the N real tokens alone, by the products of `mllmrec.engine.products`.

    Args:
        model: a causal language model.
        rows: the token ids of each sequence, (L_b,); none is empty.

    Returns:
        (N, h), sequence by sequence.

    Raises:
        UserError: see `mllmrec.engine.attention.run_layers`.
    """
    ids = torch.cat(list(rows))
    lengths = torch.tensor([len(row) for row in rows], device=ids.device)
    steps = torch.arange(int(lengths.max()), device=ids.device)
    grid = Grid.of(steps < lengths[:, None])
    with FastLayers(model.modules()).in_use():
        return run_layers(model, ids, grid.columns, _SequencePass(grid))


class _SequencePass:
    """Causal attention within each sequence. Rows are padded on the right, where nothing is attended to."""

    def __init__(self, grid: Grid) -> None:
        self.grid = grid

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        query, key, value = (self.grid.spread(tensor) for tensor in (query, key, value))
        return self.grid.collect(causal(query, key, value, scaling))
