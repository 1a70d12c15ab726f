"""REINFORCE++ (Hu 2025, arXiv 2501.03262): advantages with mean 0 and deviation 1 over all tokens of a step."""

from __future__ import annotations

import torch
from torch import Tensor

from mllmrec.rl.advantages import Advantage
from mllmrec.rl.batch import RolloutBatch
from mllmrec.rl.groups import Groups
from mllmrec.rl.kl import kl_estimate
from mllmrec.rl.parts import OLD, REFERENCE


class WhitenedReturns(Advantage):
    """REINFORCE++: what a completion still earns from each token on, whitened over the step; no groups are compared.

    The last token that the loss covers earns the reward. With ``beta`` every token pays ``beta (l_old - l_reference)``,
    the k1 estimate of the KL, so the loss needs no KL of its own (``grpo.beta=0``). A later token's earnings count
    ``gamma`` to the power of its distance. Tokens that the loss does not cover are no steps.
    """

    varies = "token"

    def __init__(self, gamma: float = 1.0, beta: float = 0.0) -> None:
        if not 0 <= gamma <= 1:
            raise ValueError(f"advantage gamma={gamma}: must be between 0 and 1")
        self.gamma, self.beta = gamma, beta
        self.needs = frozenset({OLD, REFERENCE}) if beta else frozenset()

    def __call__(self, batch: RolloutBatch) -> Tensor:
        """(R, T); zeros on tokens that the loss does not cover."""
        learnt = batch.learnt.cpu()
        earned = at_last(batch.judged(), learnt)
        if self.beta:
            assert batch.old is not None
            assert batch.reference is not None
            earned = earned - self.beta * kl_estimate(batch.old, batch.reference, "k1").cpu() * learnt
        return whitened(returns(earned, learnt, self.gamma), learnt, batch.groups.weights)


class WhitenedBaseline(Advantage):
    """REINFORCE++-baseline: ``r - mean`` of the group, whitened over all tokens of the step.

    Whitening subtracts a mean in which long completions count more. So groups of equal rewards get small advantages too,
    unless all completions are equally long.
    """

    def __call__(self, batch: RolloutBatch) -> Tensor:
        """(R,)."""
        learnt = batch.learnt.cpu()
        centred = batch.groups.centred(batch.judged())
        table = whitened(centred[:, None].expand(learnt.shape), learnt, batch.groups.weights)
        # All tokens of a row have the same number; rows without tokens have zeros.
        return table.sum(1) / learnt.sum(1).clamp_min(1)


def at_last(rewards: Tensor, learnt: Tensor) -> Tensor:
    """(R,) rewards, (R, T) bool → (R, T): each reward at the last token that counts, zeros elsewhere."""
    last = learnt & (learnt.flip(1).cumsum(1).flip(1) == 1)
    return torch.where(last, rewards[:, None], 0.0)


def returns(earned: Tensor, learnt: Tensor, gamma: float) -> Tensor:
    """(R, T), (R, T) bool → (R, T): what each token and later ones earn, each later one discounted by ``gamma``."""
    found = torch.zeros_like(earned)
    later = torch.zeros_like(earned[:, 0])
    for place in reversed(range(earned.shape[1])):
        later = torch.where(learnt[:, place], earned[:, place] + gamma * later, later)
        found[:, place] = later
    return torch.where(learnt, found, 0.0)


def whitened(values: Tensor, learnt: Tensor, weights: Tensor | None = None) -> Tensor:
    """(R, T) values → (R, T) ``(x - mean) / sqrt(var + 1e-8)`` over the tokens that count; zeros on others.

    Args:
        values: of all tokens.
        learnt: (R, T) bool: the tokens that count.
        weights: (R,) probabilities of rows; the variance is then exact, and otherwise has the divisor n - 1.
    """
    chosen = values[learnt]
    if len(chosen) == 0:
        return torch.zeros_like(values)
    everyone = Groups(
        torch.zeros(len(chosen), dtype=torch.long),
        None if weights is None else weights[:, None].expand(learnt.shape)[learnt],
    )
    scale = (everyone.std(chosen).square() + 1e-8).sqrt()
    return torch.zeros_like(values).masked_scatter(learnt, everyone.centred(chosen) / scale)
