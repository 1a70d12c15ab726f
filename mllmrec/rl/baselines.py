"""Advantages that differ from GRPO's in what is taken off a reward: its baseline.

The functions are over (R,) rewards and their groups; the classes read them from a batch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mllmrec.rl.advantages import Advantage
from mllmrec.rl.batch import RolloutBatch
from mllmrec.rl.groups import Groups
from mllmrec.rl.parts import GREEDY


class LengthWeighted(Advantage):
    """OPO: ``r - sum of T_j r_j / sum of T_j`` in each group (Hao et al. 2025, arXiv 2505.23585).

    T_j counts the tokens that the loss covers. This baseline has the least variance if the squared gradient of a
    completion grows with its length. A group without such tokens takes its plain mean.
    """

    def __call__(self, batch: RolloutBatch) -> Tensor:
        """(R,); zeros for groups of equal rewards."""
        lengths = batch.learnt.sum(1).cpu()
        return above(batch.judged(), batch.groups, length_mean(batch.judged(), batch.groups, lengths))


class SignalShare(Advantage):
    """GPG: ``alpha (r - mean)`` with ``alpha = R / rows that differ from their group's mean`` (arXiv 2504.02546).

    The rows without a signal thus do not dilute the mean over the step. Weighted rows count with their weights.
    Implementations differ in what they count: verl counts the rewards that are not zero.
    """

    def __call__(self, batch: RolloutBatch) -> Tensor:
        """(R,); zeros for groups of equal rewards."""
        return of_signal_share(batch.judged(), batch.groups)


class BestOfGroup(Advantage):
    """Pass@k: only the best row of a group gets credit, ``largest reward - second largest`` (arXiv 2503.19595).

    Where several rows are best, there is none. With ``scale`` the credit is divided by the group's standard deviation.
    """

    def __init__(self, scale: bool = False, epsilon: float = 1e-6) -> None:
        self.scale, self.epsilon = scale, epsilon

    def __call__(self, batch: RolloutBatch) -> Tensor:
        """(R,); zeros for groups of one.

        Raises:
            ValueError: the rows are all answers with their probabilities, and no draws.
        """
        if batch.weights is not None:
            raise ValueError(
                "the best of a group is the best of some draws, and this rollout returns all answers: choose another "
                "rollout"
            )
        credit = of_best(batch.judged(), batch.groups)
        if not self.scale:
            return credit
        return credit / (batch.groups.rows(batch.groups.std(batch.judged())) + self.epsilon)


class Mirror(Advantage):
    """OPMD: ``r - b``, the baseline of online policy mirror descent, as in Trinity-RFT.

    ``baseline="mean"`` takes the group's mean, ``"logavgexp"`` takes ``tau log(mean of exp(r / tau))``, which lies above
    it: the value of a policy that is held to the old one by a KL of weight ``tau``. OPMD's loss has no ratio and divides
    by ``1 + tau``; that is no part of the advantage.
    """

    def __init__(self, baseline: str = "mean", tau: float = 1.0) -> None:
        if baseline not in ("mean", "logavgexp"):
            raise ValueError(f"advantage baseline {baseline!r} is none of mean, logavgexp")
        if not tau > 0:
            raise ValueError(f"advantage tau={tau}: must be above 0")
        self.baseline, self.tau = baseline, tau

    def __call__(self, batch: RolloutBatch) -> Tensor:
        """(R,); zeros for groups of equal rewards."""
        rewards, groups = batch.judged(), batch.groups
        if self.baseline == "mean":
            return groups.centred(rewards)
        return above(rewards, groups, soft_maximum(rewards, groups, self.tau))


class AboveGreedy(Advantage):
    """ReMax: ``r - reward of the greedy completion`` of the same prompt (Li et al. 2023, arXiv 2310.10505).

    It costs one more completion of each prompt, which nothing learns. That completion is judged by the reward alone:
    shapers, which may compare completions, do not change it. Rows of a group are not compared with each other.
    """

    needs = frozenset({GREEDY})

    def __init__(self) -> None:
        self._baseline = 0.0

    def __call__(self, batch: RolloutBatch) -> Tensor:
        """(R,)."""
        assert batch.greedy is not None
        self._baseline = float(batch.greedy.mean())
        return batch.judged() - batch.greedy

    def metrics(self) -> dict[str, float]:
        """The mean reward of the greedy completions."""
        return {"remax/greedy_reward": self._baseline}


class Shifted(Advantage):
    """AsymRE: ``r - (mean + delta)`` (Arnal et al. 2025, arXiv 2506.20520).

    A ``delta`` below 0 raises all rows a little, so that good rows count more than bad ones. Rows of a group of equal
    rewards all get ``-delta``, and so does a group of one.
    """

    def __init__(self, delta: float = -0.1) -> None:
        self.delta = delta

    def __call__(self, batch: RolloutBatch) -> Tensor:
        """(R,)."""
        return batch.groups.centred(batch.judged()) - self.delta


def above(rewards: Tensor, groups: Groups, baseline: Tensor) -> Tensor:
    """(R,) rewards, (N,) baselines → (R,) what exceeds them; exactly zero in groups of equal rewards.

    Only for baselines that equal the rewards of such a group up to rounding.
    """
    return (rewards - groups.rows(baseline)).masked_fill(groups.rows(groups.all_equal(rewards)), 0.0)


def length_mean(rewards: Tensor, groups: Groups, lengths: Tensor) -> Tensor:
    """(R,) rewards, (R,) lengths → (N,) means in which a row counts as often as it is long."""
    lengths = lengths.to(rewards.dtype)
    lengths = torch.where(groups.rows(groups.most(lengths)) > 0, lengths, 1.0)
    return Groups(groups.group_of, lengths if groups.weights is None else lengths * groups.weights).mean(
        rewards
    )


def of_signal_share(rewards: Tensor, groups: Groups) -> Tensor:
    """(R,) → (R,); see `SignalShare`."""
    centred = groups.centred(rewards)
    counts = torch.ones_like(rewards) if groups.weights is None else groups.weights
    signal = counts[centred != 0].sum()
    return centred * (counts.sum() / signal) if signal > 0 else centred


def of_best(rewards: Tensor, groups: Groups) -> Tensor:
    """(R,) → (R,); see `BestOfGroup`."""
    best = rewards >= groups.rows(groups.most(rewards)) - 1e-6
    several = groups.rows(groups.mean(best.to(rewards.dtype)) * groups.sizes) > 1.5
    second = groups.rows(groups.most(rewards.masked_fill(best, -float("inf"))))
    return torch.where(best & ~several & second.isfinite(), rewards - second, 0.0)


def soft_maximum(rewards: Tensor, groups: Groups, tau: float) -> Tensor:
    """(R,) → (N,) ``tau log(mean of exp(r / tau))``, between the mean and the largest reward."""
    most = groups.most(rewards)
    share = groups.mean(((rewards - groups.rows(most)) / tau).exp())
    return most + tau * share.clamp_min(torch.finfo(share.dtype).tiny).log()
