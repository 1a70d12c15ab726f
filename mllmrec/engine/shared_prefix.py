"""The fast engine: it encodes each prompt once, and all completions of the prompt attend to that one encoding.

Start reading at `encode_prompts`, `score_completions`, and `SharedPrefixDecoder` (for rollouts).
Tokens are packed: (N,) real tokens run through the layers, without padding; only attention sees grids.

The last token of a prompt belongs to the completions. Their own pass then yields everything about a completion, and it needs
only keys and values from the prompt. So the encoding of prompts stops at the keys and values of the last layer.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from mllmrec.engine.attention import causal, run_layers, window_of
from mllmrec.engine.base import ChoiceSets, Decoder, Engine, TokenScores, positions_of
from mllmrec.engine.batches import TokenBatch
from mllmrec.engine.decoding import SharedPrefixDecoder
from mllmrec.engine.grid import Grid, Recorded
from mllmrec.engine.layers import FastLayers
from mllmrec.engine.logprobs import mixed_logprobs
from mllmrec.engine.prefix import Prefix, attend_after
from mllmrec.engine.streamed import Stream, streams
from mllmrec.errors import UserError


class SharedPrefix(Engine):
    """The engine of this module.

    With ``chunk``, passes with gradients that have more tokens are streamed: see `mllmrec.engine.streamed`.
    """

    continues_images = False
    reusable = True

    def __init__(self, chunk: int | None = None) -> None:
        """Set the most tokens whose activations the backward pass holds at once; None: those of all tokens."""
        self.chunk = chunk

    def longest(self, model: Any) -> int | None:
        """The sliding window of the model's attention, if it has one: inside it all attention is full attention."""
        return window_of(model)

    def encode(self, model: Any, prompts: TokenBatch) -> Prefix:
        """See `encode_prompts`."""
        return encode_prompts(model, prompts, self.chunk)

    def score(
        self,
        model: Any,
        encoded: Prefix,
        completions: TokenBatch,
        prompt_of: Tensor,
        *,
        scored: Tensor | None = None,
        choices: ChoiceSets | None = None,
        temperature: float = 1.0,
        entropy: bool = True,
        certainty: bool = False,
    ) -> TokenScores:
        """See `score_completions`."""
        scored = completions.mask if scored is None else scored & completions.mask
        return score_completions(
            model,
            encoded,
            completions.ids,
            scored,
            prompt_of,
            choices,
            temperature,
            entropy,
            certainty,
            self.chunk,
        )

    def decoder(self, model: Any, encoded: Prefix, group_size: int) -> Decoder:
        """See `SharedPrefixDecoder`."""
        return SharedPrefixDecoder(model, encoded, group_size)


def encode_prompts(model: Any, prompts: TokenBatch, chunk: int | None = None) -> Prefix:
    """Encode B prompts, all but their last tokens.

    Args:
        model: a causal language model.
        prompts: (B, L) with padding on either side.
        chunk: the most tokens whose activations the backward pass holds at once; None: those of all tokens.

    Returns:
        A `Prefix`; its keys and values carry gradients where gradients are on.

    Raises:
        UserError: the model checkpoints its layers, and ``chunk`` is set.
    """
    full = prompts.mask.sum(1)
    packed = prompts.ids[prompts.mask]
    ends = full.cumsum(0) - 1
    positions = positions_of(model, prompts.ids, prompts.mask)[..., prompts.mask]
    places = positions[..., ends]
    lengths = full - 1
    width = int(lengths.max())
    whole_layers = _checkpoints(model)
    if whole_layers and chunk is not None:
        raise UserError(
            f"engine.chunk={chunk} with backbone.gradient_checkpointing=true: both compute activations again; set one of "
            "them to null or false"
        )
    # Who streams is short of memory, and a copy of all adapted weights may be more than the activations of a chunk.
    merges = chunk is None or not torch.is_grad_enabled()
    fast = FastLayers(() if whole_layers else model.modules(), merges=merges)
    if width == 0:
        return Prefix([], [], places, packed[ends], None, fast)
    inside = torch.ones_like(packed, dtype=torch.bool).index_fill(0, ends, False)
    filled = torch.arange(width, device=packed.device) < lengths[:, None]
    grid = Grid.of(filled)
    last_layer = int(model.config.get_text_config().num_hidden_layers) - 1
    ids, positions = packed[inside], positions[..., inside]
    if streams(chunk, ids):
        keys, values = Stream(model, fast, ids, positions, filled, chunk).keys_and_values(last_layer)
    else:
        recorder = _PromptPass(grid, None if whole_layers else last_layer)
        with suppress(Recorded), fast.in_use():
            run_layers(model, ids, positions, recorder)
        keys, values = (
            [found[layer] for layer in sorted(found)] for found in (recorder.keys, recorder.values)
        )
    bias = None
    if grid.places is not None:
        # Finite, so that a prompt of a single token does not give a row of only -inf.
        hidden = torch.arange(width, device=packed.device) >= lengths[:, None]
        bias = torch.zeros(hidden.shape, device=packed.device).masked_fill(hidden, -1e30)[:, None, None]
    return Prefix(keys, values, places, packed[ends], bias, fast)


def score_completions(
    model: Any,
    prefix: Prefix,
    completions: Tensor,
    scored: Tensor,
    prompt_of: Tensor,
    choices: ChoiceSets | None = None,
    temperature: float = 1.0,
    entropy: bool = True,
    certainty: bool = False,
    chunk: int | None = None,
) -> TokenScores:
    """Log-probabilities of R completions; rows that are equal up to their last scored token run once.

    Args:
        model: the model that encoded the prompts.
        prefix: the B encoded prompts.
        completions: (R, T) token ids.
        scored: (R, T) bool.
        prompt_of: (R,) row of the prompt.
        choices: tokens that compete for each place; None: the whole vocabulary.
        temperature: divides the logits.
        entropy: whether to compute entropies; if not, they are zeros.
        certainty: compute `certainty_of` in place of the entropies.
        chunk: as in `encode_prompts`.

    Returns:
        (R, T) scores.
    """
    rows, width = scored.shape
    steps = torch.arange(width, device=scored.device)
    lengths = torch.where(scored, steps + 1, 0).amax(1) if width else scored.sum(1)
    wanted = lengths > 0
    if not bool(wanted.any()):
        empty = torch.zeros(rows, width, device=scored.device)
        return TokenScores(empty, empty)
    # A row's inputs: the prompt's last token, then its own tokens before the last scored one.
    length = int(lengths.max())
    inputs = completions[:, : length - 1].masked_fill(steps[1:length] >= lengths[:, None], -1)
    distinct, row_of = torch.cat([prompt_of[:, None], inputs], 1)[wanted].unique(dim=0, return_inverse=True)
    prompt = distinct[:, 0]
    tokens = torch.cat([prefix.last[prompt, None], distinct[:, 1:]], 1)

    # Distinct rows are sorted by prompt; their slots are counted within each prompt.
    counts = torch.bincount(prompt, minlength=len(prefix.last))
    slots = int(counts.max())
    slot = torch.arange(len(prompt), device=prompt.device) - (counts.cumsum(0) - counts)[prompt]
    filled = torch.zeros(len(counts) * slots, length, dtype=torch.bool, device=prompt.device)
    real = tokens >= 0
    filled[prompt * slots + slot] = real
    grid = Grid.of(filled)
    positions = (prefix.places[..., prompt, None] + steps[:length])[..., real]
    if streams(chunk, tokens[real]):
        stream = Stream(model, prefix.layers, tokens[real], positions, filled, chunk)
        hidden = stream.hidden(prefix.keys, prefix.values, prefix.bias)
    else:
        with prefix.layers.in_use():
            hidden = run_layers(model, tokens[real], positions, _CompletionPass(prefix, grid))

    place = (real.flatten().cumsum(0) - 1).view(real.shape)
    row, step = scored[wanted].nonzero(as_tuple=True)
    targets = completions[wanted][row, step]
    places = place[row_of[row], step]
    logprobs, spread = mixed_logprobs(
        hidden,
        model.get_output_embeddings(),
        places,
        targets,
        None if choices is None else choices.tokens,
        None if choices is None else choices.set_of[wanted][row, step],
        temperature=temperature,
        entropy=entropy,
        certainty=certainty,
    )
    flat = scored.flatten().nonzero()[:, 0]
    zeros = logprobs.new_zeros(rows * width)
    return TokenScores(
        zeros.index_copy(0, flat, logprobs).view(rows, width),
        zeros.index_copy(0, flat, spread).view(rows, width),
    )


class _PromptPass:
    """Causal attention within each prompt; keys and values are kept."""

    def __init__(self, grid: Grid, last_layer: int | None) -> None:
        self.grid, self.last_layer = grid, last_layer
        self.keys: dict[int, Tensor] = {}
        self.values: dict[int, Tensor] = {}

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        key, value = self.grid.spread(key).contiguous(), self.grid.spread(value).contiguous()
        # Checkpointed layers run again in the backward pass, but their keys and values are already recorded.
        if layer not in self.keys:
            self.keys[layer], self.values[layer] = key, value
        if layer == self.last_layer:
            raise Recorded
        return self.grid.collect(causal(self.grid.spread(query), key, value, scaling))


def _checkpoints(model: Any) -> bool:
    """Whether layers run again in the backward pass; such layers must run whole and unchanged."""
    graph = model.training and torch.is_grad_enabled()
    return graph and any(getattr(module, "gradient_checkpointing", False) for module in model.modules())


class _CompletionPass:
    """Attention of completions to their prompt and to their own earlier tokens."""

    def __init__(self, prefix: Prefix, grid: Grid) -> None:
        self.prefix, self.grid = prefix, grid

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        query, key, value = (self.grid.spread(tensor) for tensor in (query, key, value))
        return self.grid.collect(attend_after(self.prefix, layer, query, key, value, scaling))
