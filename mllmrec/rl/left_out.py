"""Tokens whose policy loss is left out, whatever the loss: switches of a step, as TRL has them."""

from __future__ import annotations

import torch
from torch import Tensor

from mllmrec.rl.losses import LossInputs, log_ratio, mean_of_tokens


def most_uncertain(inputs: LossInputs, share: float) -> Tensor:
    """(r, T) bool: the tokens of the highest entropy, about this share of each group's (Wang et al. 2025, arXiv 2506.01939).

    Those stay whose entropy is at least the quantile ``1 - share`` of their group's. TRL takes the quantile over all answers
    of a micro-batch (``top_entropy_quantile``), so that it depends on how a step is cut; a group is never cut.
    """
    assert inputs.group_of is not None
    kept = torch.zeros_like(inputs.mask)
    for group in inputs.group_of.unique():
        own = inputs.mask & (inputs.group_of == group)[:, None]
        if own.any():
            least = torch.quantile(inputs.entropy[own], 1 - share)
            kept |= own & (inputs.entropy >= least)
    return kept


def near_enough(inputs: LossInputs, limit: float) -> Tensor:
    """(r, T) bool: tokens with A >= 0, and those of answers that became less likely by at most ``limit`` nats a token.

    DeepSeek-V3.2's sequence mask (arXiv 2512.02556; TRL ``off_policy_mask_threshold``): an answer that is pushed down already
    counts no more once the policy has left it.
    """
    fall = -mean_of_tokens(log_ratio(inputs).detach(), inputs.mask)
    return ((inputs.advantages >= 0) | (fall <= limit)).expand_as(inputs.mask)
