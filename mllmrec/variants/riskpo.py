"""RiskPO (Ren et al. 2025, arXiv 2510.00911): bundles of prompts are graded, and the worst grades weigh most."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from mllmrec.rl.advantages import Advantage
from mllmrec.rl.batch import RolloutBatch

_EPSILON = 1e-6


@dataclass(frozen=True)
class _Bundle:
    """The k papers of one bundle; a paper holds one answer to each of its m prompts."""

    rows: Tensor  # (m, k) rows of the batch
    scores: Tensor  # (k,) X
    gains: Tensor  # (k,) how much the paper's rewards exceed their groups' means, summed
    size: int  # m, or the number of prompts if each row is a paper of its own


class BundleRisk(Advantage):
    """Mixed value at risk of bundles, relative to quantiles that follow the training.

    Every ``bundle`` groups in the step's order form a bundle, so a bundle tells near misses apart where single rewards
    are 0 or 1. Its j-th paper has the j-th answer of each group, and X is the sum of their rewards. (A smaller bundle
    at the end is scaled up. If groups differ in size, each row is a paper with the others' means beside it.) Then::

        RVaR = ((X - q_low)+ - (X - q_high)+ [+ q_low - q_high]) / (high - low)
        CVaR = -(q_low - X)+ / low
        A    = (weight * CVaR + RVaR) / (weight + 1) / (std of the bundle's X + 1e-6)

    Unlike in the authors' code, a bundle whose papers all score alike gets zeros: divided by 1e-6 they would be millions.

    ``quantiles``: ``track`` starts at the quantiles of the first step's X and follows
    ``q <- q + rate * (level - share of X below q)`` after each step; ``batch`` takes those of the bundle itself;
    ``mix`` the mean of both. ``baseline`` adds the term in brackets.

    ``credit``: ``uniform`` gives A to each row of the paper; ``std`` divides it by the deviation of the row's group;
    ``score`` halves it for positive rewards and takes 1.5 times it for others; ``share`` multiplies it by the row's
    share of the paper's gain over the groups' means (from -1 to 1; equal shares of no gain).
    """

    def __init__(
        self,
        bundle: int = 5,
        low: float = 0.2,
        high: float = 0.8,
        weight: float = 1.5,
        rate: float = 0.1,
        credit: Literal["uniform", "std", "score", "share"] = "share",
        quantiles: Literal["track", "batch", "mix"] = "track",
        baseline: bool = False,
    ) -> None:
        if not 0 < low < high < 1:
            raise ValueError(
                f"low={low} and high={high}: must be levels between 0 and 1, the first below the other"
            )
        if bundle < 1:
            raise ValueError(f"bundle={bundle}: must be a number of prompts from 1 on")
        self.bundle, self.low, self.high, self.weight = bundle, low, high, weight
        self.rate, self.credit, self.quantiles, self.baseline = rate, credit, quantiles, baseline
        self._tracked: Tensor | None = None  # (2,) q_low and q_high

    def __call__(self, batch: RolloutBatch) -> Tensor:
        """(R,).

        Raises:
            ValueError: the rows are all answers with their probabilities, and no draws.
        """
        if batch.weights is not None:
            raise ValueError(
                "papers are made of draws, and this rollout returns all answers: choose another rollout"
            )
        bundles = self._bundles(batch)
        scores = torch.cat([one.scores for one in bundles])
        levels = scores.new_tensor([self.low, self.high])
        if self._tracked is None:
            self._tracked = scores.quantile(levels)
        advantages = torch.zeros_like(batch.judged())
        for one in bundles:
            own = one.scores.quantile(levels)
            ways = {"track": self._tracked, "batch": own, "mix": (self._tracked + own) / 2}
            value = self.value(one.scores, *ways[self.quantiles].tolist())
            if one.scores.max() - one.scores.min() > _EPSILON:
                advantages[one.rows] = value / (one.scores.std() + _EPSILON) * self._credit(batch, one)
        below = (scores < self._tracked[:, None]).to(scores.dtype).mean(1)
        self._tracked = self._tracked + self.rate * (levels - below)
        return advantages

    def value(self, scores: Tensor, q_low: float, q_high: float) -> Tensor:
        """(k,) scores → (k,) mixed value at risk, before the division by their deviation."""
        middle = (scores - q_low).clamp_min(0) - (scores - q_high).clamp_min(0)
        middle = (middle + (q_low - q_high if self.baseline else 0.0)) / (self.high - self.low)
        tail = -(q_low - scores).clamp_min(0) / self.low
        return (self.weight * tail + middle) / (self.weight + 1)

    def _bundles(self, batch: RolloutBatch) -> list[_Bundle]:
        rewards, groups = batch.judged(), batch.groups
        means, gains = groups.mean(rewards), groups.centred(rewards)
        members = torch.argsort(groups.group_of, stable=True).split(groups.sizes.tolist())
        found = []
        for start in range(0, groups.count, self.bundle):
            own = members[start : start + self.bundle]
            scale = self.bundle / len(own)
            if len({len(rows) for rows in own}) == 1:
                rows = torch.stack(own)
                scores = rewards[rows].sum(0)
            else:
                rows = torch.cat(own)[None]
                scores = means[start : start + len(own)].sum() + gains[rows[0]]
            found.append(_Bundle(rows, scores * scale, gains[rows].sum(0), len(own)))
        return found

    def _credit(self, batch: RolloutBatch, bundle: _Bundle) -> Tensor:
        """(m, k) what the advantage of a paper is multiplied by for each of its rows."""
        rewards, groups, rows = batch.judged(), batch.groups, bundle.rows
        if self.credit == "std":
            spread = groups.rows(groups.std(rewards))[rows]
            return 1 / torch.where(spread > 1e-3, spread, 1.0)
        if self.credit == "score":
            return torch.where(rewards[rows] > 0, 0.5, 1.5)
        if self.credit == "share":
            even = bundle.gains.abs() < _EPSILON
            # A small gain would make large shares of opposite signs.
            shares = (groups.centred(rewards)[rows] / torch.where(even, 1.0, bundle.gains)).clamp(-1, 1)
            return torch.where(even, 1 / bundle.size, shares)
        return torch.ones_like(rewards[rows])

    def metrics(self) -> dict[str, float]:
        """The two quantiles."""
        if self._tracked is None:
            return {}
        return dict(zip(("riskpo/q_low", "riskpo/q_high"), self._tracked.tolist(), strict=True))

    def state_dict(self) -> dict[str, Any]:
        """The two quantiles, once there has been a step."""
        return {} if self._tracked is None else {"tracked": self._tracked}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `mllmrec.rl.parts.Part`."""
        self._tracked = state.get("tracked")
