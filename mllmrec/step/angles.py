"""How alike the hidden states of a prompt's tokens are: GAIN-RL's sign of what a policy learns fast."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mllmrec.engine.base import positions_of
from mllmrec.errors import UserError
from mllmrec.models.policy import Policy


def concentration(states: Tensor, mask: Tensor) -> Tensor:
    """(B, L, h) states and (B, L) bool real tokens → (B,) mean cosine over all pairs of tokens; 0 for a single token."""
    units = torch.nn.functional.normalize(states.float(), dim=-1) * mask[..., None]
    count = mask.sum(1).float()
    # The square of the sum has every pair twice, and each token with itself once.
    pairs = units.sum(1).square().sum(-1) - units.square().sum((1, 2))
    return pairs / (count * (count - 1)).clamp_min(1)


@torch.no_grad()
def angles_of(policy: Policy, prompts: Sequence[str], micro_batch_size: int = 64) -> np.ndarray:
    """(n,) `concentration` of each prompt, from what enters the MLP of the policy's last layer.

    Raises:
        UserError: the model has no modules called ``mlp``.
    """
    model: Any = policy.model
    layers = [module for name, module in model.named_modules() if name.endswith(".mlp")]
    if not layers:
        raise UserError("sampler: the backbone's layers have no module called mlp: choose another sampler")
    found: list[Tensor] = []
    caught: list[Tensor] = []
    hook = layers[-1].register_forward_pre_hook(lambda module, given: caught.append(given[0]))
    training = model.training
    model.eval()
    try:
        for start in range(0, len(prompts), micro_batch_size):
            ids, mask = policy.prompt_batch(list(prompts[start : start + micro_batch_size]))
            model(
                input_ids=ids,
                attention_mask=mask.long(),
                position_ids=positions_of(model, ids, mask),
                use_cache=False,
                logits_to_keep=1,
            )
            found.append(concentration(caught.pop(), mask).cpu())
    finally:
        hook.remove()
        model.train(training)
    return torch.cat(found).numpy() if found else np.zeros(0, dtype=np.float32)
