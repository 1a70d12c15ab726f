"""DE-GRPO (FaVChat, Zhao et al. 2025, arXiv 2503.09158): prompts whose answers earn most unlike rewards teach most.

The lifecycle of prompts, its other half, is `mllmrec.variants.lifecycle`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from mllmrec.rl.advantages import Advantage, group_relative
from mllmrec.rl.batch import RolloutBatch
from mllmrec.rl.groups import Groups


class MarginScaled(Advantage):
    """GRPO's advantages times ``tanh(S)`` with ``S = max(m - V, 0)`` of the prompt.

    The margin m is the mean of ``|r_i - r_j|`` over all pairs of its answers. ``value`` says what V is: 0 (``zero``), or what
    the prompt's margin was on earlier visits (``running``: V moves by ``rate`` of the distance, from 0 on). The released code
    takes V from a head on hidden states, which only the policy loss trains, and lets a negative S turn advantages around;
    here such a prompt teaches nothing.
    """

    def __init__(
        self,
        value: Literal["zero", "running"] = "zero",
        rate: float = 0.2,
        scale: str = "group",
        epsilon: float = 1e-4,
    ) -> None:
        if value not in ("zero", "running"):
            raise ValueError(f"value={value}: is none of zero, running")
        if not 0 < rate <= 1:
            raise ValueError(f"rate={rate:g}: must be a share above 0")
        if scale not in ("group", "batch", "none"):
            raise ValueError(f"scale={scale}: is none of group, batch, none")
        self.value, self.rate, self.scale, self.epsilon = value, rate, scale, epsilon
        self._values: dict[str, float] = {}
        self._margin = self._factor = 0.0

    def __call__(self, batch: RolloutBatch) -> Tensor:
        """(R,); zeros for groups of equal rewards."""
        rewards, groups = batch.judged(), batch.groups
        margins = margins_of(rewards, groups)
        surprise = margins.clone()
        if self.value == "running":
            first = torch.zeros(groups.count, dtype=torch.long).scatter_(
                0, batch.group_of.flip(0), batch.example_of.flip(0)
            )
            for group, example in enumerate(first.tolist()):
                sample, margin = batch.examples[example].sample_id, float(margins[group])
                before = self._values.get(sample, 0.0)
                surprise[group] -= before
                self._values[sample] = before + self.rate * (margin - before)
        factor = surprise.clamp_min(0).tanh()
        self._margin, self._factor = float(margins.mean()), float(factor.mean())
        return group_relative(rewards, groups, self.scale, self.epsilon) * groups.rows(factor)

    def metrics(self) -> dict[str, float]:
        """The mean margin of the step's prompts, and the mean factor of their advantages."""
        return {"de_grpo/margin": self._margin, "de_grpo/factor": self._factor}

    def state_dict(self) -> dict[str, Any]:
        """The values of the prompts that were visited."""
        return {"values": dict(self._values)} if self.value == "running" else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Part`."""
        self._values = dict(state.get("values", {}))


def margins_of(rewards: Tensor, groups: Groups) -> Tensor:
    """(R,) → (N,) the mean of ``|r_i - r_j|`` over all pairs of a group; over two independent draws if rows have weights."""
    margins = rewards.new_zeros(groups.count)
    for group in range(groups.count):
        own = groups.group_of == group
        apart = (rewards[own][:, None] - rewards[own]).abs()
        if groups.weights is None:
            margins[group] = apart.sum() / max(len(apart) * (len(apart) - 1), 1)
        else:
            chances = groups.weights[own] / groups.weights[own].sum()
            margins[group] = chances @ apart @ chances
    return margins
