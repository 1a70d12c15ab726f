"""Free rollouts: any token of the vocabulary may come next."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mllmrec.engine.batches import TokenBatch
from mllmrec.rollout.base import Rollouts, Sampler
from mllmrec.rollout.decode import Decoder, draw


class Free(Sampler):
    """Samples until the end token or ``max_new_tokens``.

    With ``top_p`` < 1 the tokens come from the nucleus while the loss uses the full distribution at the same
    temperature, as TRL does: the ratio of the two is not corrected.
    """

    constrained = False
    max_new_tokens: int

    def __init__(self, temperature: float = 1.0, top_p: float = 1.0, max_new_tokens: int = 128) -> None:
        self.temperature, self.top_p, self.max_new_tokens = temperature, top_p, max_new_tokens

    @torch.no_grad()
    def __call__(
        self,
        model: torch.nn.Module,
        prompts: TokenBatch,
        group_size: int,
        generator: torch.Generator,
        answers: Sequence[Sequence[Sequence[int]]],
        end_token: int,
    ) -> Rollouts:
        """Draw ``group_size`` completions for each prompt; see `Sampler`."""
        decoder = Decoder(model, prompts, group_size)
        rows = len(prompts.ids) * group_size
        device = prompts.ids.device
        alive = torch.ones(rows, dtype=torch.bool, device=device)
        tokens: list[torch.Tensor] = []
        masks: list[torch.Tensor] = []
        for step in range(self.max_new_tokens):
            if step:
                decoder.advance(tokens[-1])
            chosen = draw(decoder.logits, generator, self.temperature, self.top_p)
            tokens.append(torch.where(alive, chosen, end_token))
            masks.append(alive)
            alive = alive & (chosen != end_token)
            if not alive.any():
                break
        mask = torch.stack(masks, 1)
        return Rollouts(
            prompts=prompts,
            completions=TokenBatch(torch.stack(tokens, 1), mask),
            prompt_of=torch.arange(len(prompts.ids), device=device).repeat_interleave(group_size),
            decisions=mask,
            allowed=None,
            finished=~alive,
        )
