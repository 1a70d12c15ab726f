"""The REC family (Yao et al. 2025, arXiv 2509.24203): REINFORCE within groups, read as an off-policy algorithm.

It is one step towards the optimum of a KL-regularised objective, whoever drew the answers. So importance weights are optional,
and stability comes from leaving tokens out that moved far, or from holding the policy near the old one.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from mllmrec.randomness import torch_generator
from mllmrec.rl.advantages import Advantage
from mllmrec.rl.batch import RolloutBatch
from mllmrec.rl.losses import LossInputs, LossOutputs, PolicyLoss, bounded_exp, log_ratio, mean_of_tokens
from mllmrec.rl.regularizers import Regularizer

CLIPS = ("none", "two_side", "one_side", "ring")
WEIGHTS = ("none", "importance_sampling", "advantage")


class Rec(PolicyLoss):
    """``-M w A log pi`` with a mask M and a weight w of each token, both without a gradient.

    With the ratio rho of a token, ``clip`` says which tokens M keeps:

    - ``none``: all;
    - ``two_side``: 1 - epsilon_low <= rho <= 1 + epsilon_high;
    - ``one_side``: rho <= 1 + epsilon_high if A >= 0, rho >= 1 - epsilon_low if A <= 0, as PPO's clip does;
    - ``ring``: those of ``two_side``, and tokens far on the other side: rho <= 1 - far_low if A >= 0, rho >= 1 + far_high
      if A <= 0.

    ``weight`` says what w is: 1 (``none``), rho (``importance_sampling``) or exp(A / temperature) (``advantage``). With
    ``one_side`` and ``importance_sampling`` the gradient is that of `ClippedRatio`; ``none`` and ``advantage`` is RED-Weight.
    With ``level="sequence"`` rho is the geometric mean of the answer's ratios, for all its tokens (the authors' gspo modes).
    """

    accepts = frozenset({"sequence", "segment", "token"})

    def __init__(
        self,
        clip: Literal["none", "two_side", "one_side", "ring"] = "one_side",
        weight: Literal["none", "importance_sampling", "advantage"] = "none",
        epsilon_low: float = 0.2,
        epsilon_high: float = 0.2,
        far_low: float = 0.6,
        far_high: float = 2.0,
        temperature: float = 1.0,
        level: Literal["token", "sequence"] = "token",
    ) -> None:
        if clip not in CLIPS:
            raise ValueError(f"clip={clip}: is none of {', '.join(CLIPS)}")
        if weight not in WEIGHTS:
            raise ValueError(f"weight={weight}: is none of {', '.join(WEIGHTS)}")
        if temperature <= 0:
            raise ValueError(f"temperature={temperature}: must be positive")
        if level not in ("token", "sequence"):
            raise ValueError(f"level={level}: is none of token, sequence")
        self.clip, self.weight, self.temperature, self.level = clip, weight, temperature, level
        self.low, self.high, self.far_low, self.far_high = epsilon_low, epsilon_high, far_low, far_high

    def __call__(self, inputs: LossInputs) -> LossOutputs:
        """The terms, and the share of tokens that the mask leaves out."""
        advantages = inputs.advantages
        distance = log_ratio(inputs).detach()
        if self.level == "sequence":
            distance = mean_of_tokens(distance, inputs.mask).expand_as(distance)
        ratio = bounded_exp(distance)
        kept = self.kept(ratio, advantages)
        if self.weight == "importance_sampling":
            weighted = ratio * advantages
        elif self.weight == "advantage":
            weighted = bounded_exp(advantages / self.temperature) * advantages
        else:
            weighted = advantages
        terms = torch.where(kept, -weighted * inputs.logprobs, 0.0)
        return LossOutputs(terms, {"clip_ratio/left_out_mean": inputs.mask & ~kept})

    def kept(self, ratio: Tensor, advantages: Tensor) -> Tensor:
        """(r, T) ratios, (r, 1) or (r, T) advantages → (r, T) bool, M."""
        gains, loses = advantages >= 0, advantages <= 0
        above, below = ratio <= 1 + self.high, ratio >= 1 - self.low
        if self.clip == "one_side":
            return (gains & above) | (loses & below)
        if self.clip == "none":
            return torch.ones_like(above)
        far = (gains & (ratio <= 1 - self.far_low)) | (loses & (ratio >= 1 + self.far_high))
        return above & below | far if self.clip == "ring" else above & below


class Balanced(Advantage):
    """RED-Drop: in groups with more bad answers than good ones, bad ones are left out at random until there are as many.

    Good answers earn at least the group's mean. Those that stay get ``r - mean`` over those that stay; the others get 0.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self._dropped = 0.0

    def __call__(self, batch: RolloutBatch) -> Tensor:
        """(R,); zeros for groups of equal rewards.

        Raises:
            ValueError: the rows are all answers with their probabilities, and no draws.
        """
        if batch.weights is not None:
            raise ValueError(
                "bad answers are dropped from draws, and this rollout returns all answers: choose another rollout"
            )
        rewards = batch.judged()
        good = batch.groups.centred(rewards) >= 0
        stays = torch.ones_like(good)
        for group in range(batch.groups.count):
            own = (batch.group_of == group).nonzero()[:, 0]
            bad = own[~good[own]]
            surplus = len(bad) - (len(own) - len(bad))
            if surplus > 0:
                stays[self._in_order(batch, bad)[:surplus]] = False
        self._dropped = float((~stays).float().mean())
        counts = stays.to(rewards.dtype)
        sizes = batch.groups.mean(counts)
        mean = batch.groups.mean(rewards * counts) / sizes
        given = (rewards - batch.groups.rows(mean)) * counts
        return given.masked_fill(batch.groups.rows(batch.groups.all_equal(rewards)), 0.0)

    def _in_order(self, batch: RolloutBatch, rows: Tensor) -> Tensor:
        """The rows in a random order that does not depend on where they stand."""
        ids = batch.completions.ids.cpu()
        keys = []
        for row in rows.tolist():
            sample = batch.examples[int(batch.example_of[row])].sample_id
            written = " ".join(map(str, ids[row].tolist()))
            generator = torch_generator(self.seed, "red_drop", batch.step, sample, written)
            keys.append(torch.rand((), generator=generator))
        return rows[torch.stack(keys).argsort(stable=True)]

    def metrics(self) -> dict[str, float]:
        """The share of answers that were left out."""
        return {"red_drop/dropped": self._dropped}


class NearOld(Regularizer):
    """Holds the policy near whoever drew the answers: ``(l - l_old)²`` (``k2``), or ``-l`` (``forward``, cross-entropy).

    It takes the place of a clip: with ``loss.clip=none``, ``k2`` is Kimi's OPMD and ``forward`` is AsymRE (``variant=rep``).
    """

    name = "near_old"

    def __init__(self, coefficient: float = 0.1, kind: Literal["k2", "forward"] = "k2") -> None:
        if kind not in ("k2", "forward"):
            raise ValueError(f"kind={kind}: is none of k2, forward")
        self.coefficient, self.kind = coefficient, kind

    def weight(self, step: int) -> float:
        """The coefficient."""
        return self.coefficient

    def __call__(self, inputs: LossInputs) -> Tensor:
        """(r, T)."""
        return log_ratio(inputs).square() if self.kind == "k2" else -inputs.logprobs
