"""Losses over preferences: one answer against other answers to the same prompt. To add one: one function here.

Letters: B prompts, N negatives for each.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Preference:
    """The losses and rewards of a batch of preferences; the rewards carry no gradient."""

    terms: Tensor  # (B,) loss of each prompt, in nats
    chosen: Tensor  # (B,) implicit reward of the preferred answer
    rejected: Tensor  # (B, N) implicit rewards of the others

    @property
    def won(self) -> Tensor:
        """(B,) bool: the preferred answer has a higher reward than every other answer."""
        return (self.chosen[:, None] > self.rejected).all(1)

    @property
    def margins(self) -> Tensor:
        """(B,) reward of the preferred answer minus the mean of the others."""
        return self.chosen - self.rejected.mean(1)


def softmax_dpo(logprobs: Tensor, reference: Tensor, beta: float) -> Preference:
    """S-DPO (Chen et al. 2024, arXiv 2406.09215); with one negative it is DPO (Rafailov et al. 2023, eq. 7).

    With h(y) = log pi(y) - log pi_ref(y), w the preferred answer and j the others, the loss of a prompt is

        -log sigma(-log sum_j exp(beta (h(y_j) - h(y_w)))),

    which is -log softmax(beta h) at w: the cross-entropy of picking w among the answers by their implicit rewards
    beta h. Before the first update it is log(1 + N).

    Args:
        logprobs: (B, 1 + N) log-probabilities of whole answers under the policy, the preferred one first.
        reference: (B, 1 + N) the same under the reference.
        beta: the weight of one nat of difference from the reference.
    """
    rewards = beta * (logprobs - reference)
    terms = -torch.log_softmax(rewards, 1)[:, 0]
    rewards = rewards.detach()
    return Preference(terms, rewards[:, 0], rewards[:, 1:])
