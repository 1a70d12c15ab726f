"""SEED-GRPO (Chen et al. 2025, arXiv 2505.12346): prompts on which the answers disagree teach less."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from mllmrec.rl.advantages import Advantage, GroupRelative
from mllmrec.rl.batch import RolloutBatch
from mllmrec.rl.groups import Groups

Form = Literal["linear", "exponential", "rational"]


class SemanticEntropy(Advantage):
    """GRPO's advantages times ``f(alpha * SE / log G)``, where SE is the entropy of what a group's answers mean.

    Answers mean the same if they name the same items in the same order; those that name none are one meaning. With
    p_c = share of the rows with meaning c (with weighted rows, their probability), ``SE = -sum of p_c log p_c``.
    ``form``: ``linear`` is ``f(u) = 1 - u``, not below 0; ``exponential`` is ``exp(-u)``, ``rational`` ``1 / (1 + u)``.
    ``scale`` and ``epsilon`` are those of `GroupRelative`.

    The authors published no code: ``f`` and ``alpha`` are uncertain, and so is the sign where hits are rare. An ``alpha``
    below 0 lets uncertain prompts teach more.
    """

    def __init__(
        self, alpha: float = 1.0, form: Form = "linear", scale: str = "group", epsilon: float = 1e-4
    ) -> None:
        if form not in ("linear", "exponential", "rational"):
            raise ValueError(f"advantage form={form!r} is none of linear, exponential, rational")
        if form == "rational" and alpha <= -1:
            raise ValueError(f"advantage alpha={alpha} with form=rational: must be above -1")
        self.alpha, self.form, self.plain = alpha, form, GroupRelative(scale, epsilon)
        self._entropy = 0.0

    def __call__(self, batch: RolloutBatch) -> Tensor:
        """(R,); zeros for groups of equal rewards."""
        entropies = relative_entropy(meanings_of(batch), batch.groups)
        self._entropy = float(entropies.mean())
        return self.plain(batch) * batch.groups.rows(self.factor(self.alpha * entropies))

    def factor(self, u: Tensor) -> Tensor:
        """What advantages are multiplied by; see `SemanticEntropy`."""
        if self.form == "exponential":
            return (-u).exp()
        return (1 - u).clamp_min(0) if self.form == "linear" else 1 / (1 + u)

    def metrics(self) -> dict[str, float]:
        """The mean entropy of the groups, from 0 (all agree) to 1 (all differ)."""
        return {"seed_grpo/entropy": self._entropy}


def meanings_of(batch: RolloutBatch) -> Tensor:
    """(R,) a number for each row: the same for answers that name the same items in the same order."""
    numbers: dict[tuple[str, ...], int] = {}
    named = (tuple(item for item, _ in answer.items) for answer in batch.answers)
    return torch.tensor([numbers.setdefault(items, len(numbers)) for items in named])


def relative_entropy(meanings: Tensor, groups: Groups) -> Tensor:
    """(R,) meanings → (N,) their entropy within each group over the largest possible one, 0 to 1; 0 for groups of one.

    The largest one is the log of the number of rows, or, if rows have weights and are thus all answers, of meanings.
    """
    alike = torch.stack([groups.group_of, meanings]).unique(dim=1, return_inverse=True)[1]
    counts = torch.ones(len(meanings)) if groups.weights is None else groups.weights
    mass = torch.zeros(int(alike.max()) + 1, dtype=counts.dtype).index_add(0, alike, counts)
    total = torch.zeros(groups.count, dtype=counts.dtype).index_add(0, groups.group_of, counts)
    share = mass[alike] / groups.rows(total)
    # The mean over rows of -log p is the sum over meanings of -p log p.
    entropy = groups.mean(-share.clamp_min(torch.finfo(share.dtype).tiny).log())
    most = groups.sizes
    if groups.weights is not None:
        group_of_meaning = torch.zeros(len(mass), dtype=torch.long).scatter(0, alike, groups.group_of)
        most = torch.bincount(group_of_meaning, minlength=groups.count)
    return torch.where(most > 1, entropy / most.clamp_min(2).to(share.dtype).log(), 0.0)
