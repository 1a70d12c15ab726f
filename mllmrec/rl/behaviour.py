"""Completions that another program drew than the one that learns: how far the two are apart, and the correction.

An inference engine rounds differently, and its weights may be some updates old. So its completions are not quite the policy's.
Each token's loss is multiplied by the truncated importance ratio ``min(pi_train / pi_server, cap)``, a constant for the
gradient (Ionides 2008; Yao et al. 2025, "Your Efficient RL Framework Secretly Brings You Off-Policy RL Training"; TRL
``vllm_importance_sampling_correction`` with ``vllm_importance_sampling_mode=token_truncate``).
"""

from __future__ import annotations

import torch
from torch import Tensor

from mllmrec.rl.losses import bounded_exp

MEAN_DIFFERENCE = "sampling/sampling_logp_difference/mean"


def truncated_ratio(old: Tensor, behaviour: Tensor, cap: float) -> Tensor:
    """(R, T) what each token's loss is multiplied by; 1 where the policy itself drew the token.

    Args:
        old: (R, T) log-probabilities under the policy when it learns the completions for the first time.
        behaviour: (R, T) under whoever drew them; NaN: the policy did.
        cap: the most that a ratio counts.
    """
    ratio = bounded_exp(torch.nan_to_num(old.detach() - behaviour, nan=0.0))
    return ratio.clamp(max=cap)


def sampling_metrics(old: Tensor, behaviour: Tensor, mask: Tensor, cap: float | None) -> dict[str, float]:
    """Numbers about the difference, under the names that TRL gives them.

    Args:
        old: (R, T) as in `truncated_ratio`.
        behaviour: (R, T) likewise.
        mask: (R, T) bool: the tokens that count; those that the policy itself drew do not.
        cap: as in `truncated_ratio`; None: no ratio is used, and none is given.

    Returns:
        Nothing if no token counts.
    """
    there = mask & ~behaviour.isnan()
    if not there.any():
        return {}
    difference = (old - behaviour)[there].abs()
    found = {
        MEAN_DIFFERENCE: difference.mean(),
        "sampling/sampling_logp_difference/max": difference.max(),
    }
    if cap is not None:
        ratio = truncated_ratio(old, behaviour, cap)[there]
        found |= {
            "sampling/importance_sampling_ratio/min": ratio.min(),
            "sampling/importance_sampling_ratio/mean": ratio.mean(),
            "sampling/importance_sampling_ratio/max": ratio.max(),
            "sampling/truncated_ratio": (ratio >= cap).float().mean(),
        }
    return {name: float(value) for name, value in found.items()}
