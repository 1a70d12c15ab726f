"""Streamed passes: the backward pass computes activations again, for one chunk of each sequence at a time.

StreamBP (Luo et al. 2025, arXiv 2506.03077) splits the backward pass along the sequence and not along layers: attention is
causal, so the last chunk of a sequence needs earlier chunks only through their keys and values. The forward pass keeps these
and nothing else. The backward pass goes from the last chunk to the first: it runs a chunk again, through all layers, and adds
what the chunk's attention says about earlier keys and values to their gradients. When it comes to those chunks, their
gradients are complete.

The authors go layer by layer and keep each layer's input. We go chunk by chunk, because keys and values of prompts are kept
for their completions anyway; with grouped heads they are smaller than the inputs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TypeGuard

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mllmrec.engine.attention import Store, run_layers, with_stores
from mllmrec.engine.grid import Grid, Recorded
from mllmrec.engine.layers import FastLayers


class Stream:
    """N packed tokens of several sequences, and how to run them again chunk by chunk."""

    def __init__(
        self, model: Any, layers: FastLayers, ids: Tensor, positions: Tensor, filled: Tensor, chunk: int
    ) -> None:
        """Cut the sequences into chunks of columns.

        Args:
            model: a causal language model.
            layers: how its linear layers run.
            ids: (N,).
            positions: (N,), or (3, N).
            filled: (rows, width) bool, where the tokens stand; rows without gaps from column 0 on.
            chunk: the most tokens in a chunk; a chunk has at least one column.
        """
        self.model, self.layers, self.ids, self.positions = model, layers, ids, positions
        self.filled, self.columns = filled, Grid.of(filled).columns
        self.chunks = spans(filled.sum(0).tolist(), chunk)
        self.bias: Tensor | None = None  # of the prompts' keys
        self.last_layer: int | None = (
            None  # the pass ends with the keys and values of this layer; None: runs to the end
        )
        device = ids.device.type
        self._autocast = (device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device))
        self._random: list[list[Tensor]] = []

    def keys_and_values(self, last_layer: int) -> tuple[list[Tensor], list[Tensor]]:
        """Keys and values of sequences without a prefix, for each layer (rows, KV, width, D).

        They must be used through `with_prefix` alone: the backward pass adds to the gradients that it is given, in place.
        """
        self.last_layer = last_layer
        own = _Streamed.apply(self, 0, *self._weights())
        return list(own[::2]), list(own[1::2])

    def hidden(self, keys: Sequence[Tensor], values: Sequence[Tensor], bias: Tensor | None) -> Tensor:
        """(N, h) last hidden states of sequences that follow B prompts; row r belongs to prompt ``r // (rows / B)``."""
        self.bias = bias
        far = [tensor for pair in zip(keys, values, strict=True) for tensor in pair]
        (hidden,) = _Streamed.apply(self, len(far), *far, *self._weights())
        return hidden

    def forward(self, far: Sequence[Tensor]) -> tuple[Tensor | None, list[Tensor]]:
        """Run all chunks without gradient: hidden states, and the sequences' own keys and values in turn."""
        own: list[Tensor] = []
        hidden: Tensor | None = None
        for number in range(len(self.chunks)):
            self._random.append(self._random_state())
            step = _ChunkPass(self, number, far, own)
            found, inside = self._run(number, step)
            if found is None:
                continue
            if hidden is None:
                hidden = found.new_empty(len(self.ids), found.shape[-1])
            hidden[inside] = found
        return hidden, own

    def backward(
        self,
        far: Sequence[Tensor],
        own: Sequence[Tensor],
        of_far: Sequence[Tensor],
        of_own: Sequence[Tensor],
        of_hidden: Tensor | None,
    ) -> list[Tensor | None]:
        """Add to the gradients of ``far`` and ``own`` in place, and return those of the weights."""
        weights = self._weights()
        # The chunks' gradients are summed where autograd sums gradients of weights; what is there already comes back.
        kept = [weight.grad for weight in weights]
        for weight in weights:
            weight.grad = None
        try:
            for number in reversed(range(len(self.chunks))):
                start, end = self.chunks[number]
                step = _ChunkPass(self, number, far, own, (of_far, of_own))
                with torch.enable_grad(), self._as_before(number):
                    found, inside = self._run(number, step)
                pairs = [
                    (tensor, gradient[:, :, start:end])
                    for tensor, gradient in zip(step.recorded, of_own, strict=True)
                ]
                if found is not None and of_hidden is not None:
                    pairs.append((found, of_hidden[inside]))
                pairs = [pair for pair in pairs if pair[0].requires_grad]
                if pairs:
                    torch.autograd.backward([pair[0] for pair in pairs], [pair[1] for pair in pairs])
            return [weight.grad for weight in weights]
        finally:
            for weight, gradient in zip(weights, kept, strict=True):
                weight.grad = gradient

    def _run(self, number: int, step: _ChunkPass) -> tuple[Tensor | None, Tensor]:
        start, end = self.chunks[number]
        inside = ((self.columns >= start) & (self.columns < end)).nonzero()[:, 0]
        with suppress(Recorded), self.layers.in_use():
            return run_layers(self.model, self.ids[inside], self.positions[..., inside], step), inside
        return None, inside

    def _weights(self) -> list[Tensor]:
        return [weight for weight in self.model.parameters() if weight.requires_grad]

    def _random_state(self) -> list[Tensor]:
        """Only dropout draws."""
        if not self.model.training:
            return []
        device = self.ids.device
        return [
            torch.get_rng_state(),
            *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else []),
        ]

    @contextmanager
    def _as_before(self, number: int) -> Iterator[None]:
        """Precision and random numbers of the forward pass."""
        device, dtype, enabled = self._autocast
        states = self._random[number]
        devices = [self.ids.device] if len(states) > 1 else []
        with (
            torch.random.fork_rng(devices, enabled=bool(states)),
            torch.autocast(device, dtype=dtype, enabled=enabled),
        ):
            if states:
                torch.set_rng_state(states[0])
            for state in states[1:]:
                torch.cuda.set_rng_state(state, self.ids.device)
            yield


class _ChunkPass:
    """Attention of one chunk to the prompts, to earlier chunks and to itself."""

    def __init__(
        self,
        stream: Stream,
        number: int,
        far: Sequence[Tensor],
        own: Any,
        gradients: tuple[Sequence[Tensor], Sequence[Tensor]] | None = None,
    ) -> None:
        self.stream, self.far, self.own, self.gradients = stream, far, own, gradients
        self.start, self.end = stream.chunks[number]
        self.grid = Grid.of(stream.filled[:, self.start : self.end])
        self.recorded: list[
            Tensor
        ] = []  # this chunk's keys and values with their graph, if there are gradients

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        query, key, value = (self.grid.spread(tensor) for tensor in (query, key, value))
        pair = slice(2 * layer, 2 * layer + 2)
        if len(self.stream.chunks) > 1 or self.stream.last_layer is not None:
            self._keep(pair, key, value)
        if layer == self.stream.last_layer:
            raise Recorded
        stores = []
        if self.far:
            stores.append(self._store(0, self.far, pair, None, self.stream.bias))
        if self.start:
            stores.append(self._store(1, self.own, pair, self.start, None))
        return self.grid.collect(with_stores(query, key, value, stores, scaling))

    def _store(
        self, which: int, tensors: Sequence[Tensor], pair: slice, length: int | None, bias: Tensor | None
    ) -> Store:
        """The first ``length`` keys and values of a layer, with their gradients if there are any."""
        keys, values = (tensor[:, :, :length] for tensor in tensors[pair])
        if self.gradients is None:
            return Store(keys, values, bias)
        of_keys, of_values = (tensor[:, :, :length] for tensor in self.gradients[which][pair])
        return Store(keys, values, bias, (of_keys, of_values))

    def _keep(self, pair: slice, key: Tensor, value: Tensor) -> None:
        if self.gradients is not None:
            self.recorded += [key, value]
            return
        width = self.stream.filled.shape[1]
        if self.start == 0:
            self.own += [new.new_empty(*new.shape[:2], width, new.shape[3]) for new in (key, value)]
        for kept, new in zip(self.own[pair], (key, value), strict=True):
            kept[:, :, self.start : self.end] = new


class _Streamed(torch.autograd.Function):
    """The pass of a `Stream`: from prompts' keys and values and all weights that train, to hidden states or keys and values."""

    @staticmethod
    def forward(ctx: Any, stream: Stream, given: int, *tensors: Tensor) -> Any:
        far = tensors[:given]
        hidden, own = stream.forward(far)
        ctx.stream, ctx.given = stream, given
        ctx.save_for_backward(*far, *own)
        return tuple(own) if hidden is None else (hidden,)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        # Saved inputs and outputs come back with their graph, through which a chunk would reach this very pass.
        saved = [tensor.detach() for tensor in ctx.saved_tensors]
        far, own = saved[: ctx.given], saved[ctx.given :]
        of_far = [torch.zeros_like(tensor) for tensor in far]
        records = ctx.stream.last_layer is not None
        of_own = gradients if records else [torch.zeros_like(tensor) for tensor in own]
        of_weights = ctx.stream.backward(far, own, of_far, of_own, None if records else gradients[0])
        return None, None, *of_far, *of_weights


def spans(tokens: Sequence[int], chunk: int) -> list[tuple[int, int]]:
    """The fewest runs of columns with at most ``chunk`` tokens each, but at least one column.

    >>> spans([3, 3, 2, 2, 1], 5)
    [(0, 1), (1, 3), (3, 5)]
    """
    ends, total = [0], 0
    for column, count in enumerate(tokens):
        if total + count > chunk and column > ends[-1]:
            ends.append(column)
            total = 0
        total += count
    return list(zip(ends, [*ends[1:], len(tokens)], strict=True))


def streams(chunk: int | None, ids: Tensor) -> TypeGuard[int]:
    """Whether a pass over so many tokens is streamed: it has gradients and more tokens than ``chunk``."""
    return chunk is not None and torch.is_grad_enabled() and len(ids) > chunk
