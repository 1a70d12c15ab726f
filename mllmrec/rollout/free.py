"""Free rollouts: any token of the vocabulary may come next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from mllmrec.engine.base import Engine
from mllmrec.engine.batches import TokenBatch, pad
from mllmrec.rollout.base import Completions, PlainRollout, Spelling
from mllmrec.rollout.draw import TRIES, draw, uniforms
from mllmrec.rollout.written import Wanted, Written, behaviour_of


class Free(PlainRollout):
    """Samples until the end token or ``max_new_tokens``; finished rows leave the batch.

    With ``top_p`` < 1 the tokens come from the nucleus, but the loss uses the full distribution at the same
    temperature. As in TRL, nothing corrects for the ratio of the two.
    """

    constrained = False
    by_server = True
    max_new_tokens: int

    def __init__(self, temperature: float = 1.0, top_p: float = 1.0, max_new_tokens: int = 128) -> None:
        self.temperature, self.top_p, self.max_new_tokens = temperature, top_p, max_new_tokens

    def wanted(self, spelling: Spelling) -> Wanted:
        """See `PlainRollout`."""
        return Wanted([], self.max_new_tokens, spelling.end, self.temperature, self.top_p)

    @torch.no_grad()
    def draw(
        self,
        engine: Engine,
        model: Any,
        encoded: Any,
        group_size: int,
        generators: Sequence[torch.Generator],
        spelling: Spelling,
    ) -> Completions:
        """Draw ``group_size`` completions for each prompt; see `PlainRollout`."""
        if spelling.written is not None:
            return _as_written(spelling.written, group_size, spelling.end, next(model.parameters()).device)
        decoder = engine.decoder(model, encoded, group_size)
        device = decoder.logits.device
        rows = len(generators) * group_size
        numbers = uniforms(generators, group_size, self.max_new_tokens, TRIES).flatten(0, 1)
        ids = torch.full((rows, self.max_new_tokens), spelling.end, device=device)
        lengths = torch.full((rows,), self.max_new_tokens, device=device)
        alive = torch.arange(rows, device=device)
        for step in range(self.max_new_tokens):
            chosen = draw(decoder.logits, numbers[alive.cpu(), step], self.temperature, self.top_p)
            ids[alive, step] = chosen
            ended = chosen == spelling.end
            if ended.any():
                lengths[alive[ended]] = step + 1
                on = (~ended).nonzero()[:, 0]
                alive, chosen = alive[on], chosen[on]
                if len(alive) == 0:
                    break
                decoder.keep(on)
            if step + 1 < self.max_new_tokens:
                decoder.advance(chosen)
        width = int(lengths.max())
        mask = torch.arange(width, device=device) < lengths[:, None]
        finished = torch.ones(rows, dtype=torch.bool, device=device)
        finished[alive] = False
        return Completions(
            tokens=TokenBatch(ids[:, :width], mask),
            prompt_of=torch.arange(len(generators), device=device).repeat_interleave(group_size),
            decisions=mask,
            choices=None,
            finished=finished,
        )


def _as_written(written: Written, group_size: int, end: int, device: torch.device) -> Completions:
    """What a server drew, as completions."""
    tokens = pad(written.rows, end, side="right").to(device)
    return Completions(
        tokens=tokens,
        prompt_of=torch.arange(len(tokens.ids), device=device) // group_size,
        decisions=tokens.mask,
        choices=None,
        finished=torch.tensor([row[-1] == end for row in written.rows], device=device),
        behaviour=behaviour_of(written.logprobs, 0, tokens.ids),
    )
