"""VLAA-Thinker (Chen et al. 2025, arXiv 2504.11468): one reward of several verifiers, each for a kind of question."""

from __future__ import annotations

import torch

from mllmrec.rewards.base import Reward, Rewards
from mllmrec.rl.batch import RolloutBatch
from mllmrec.text_encoders.described import DescribedItems


class Mixed(Reward):
    """``accuracy * a + format_weight * f``: a is the total of the verifier of the question's kind, f its part ``format``.

    Questions that ask for one item go to ``item``, those that ask for a ranked list to ``ranked``.
    """

    parts = ("accuracy", "format", "hit")

    def __init__(
        self, item: Reward, ranked: Reward, accuracy: float = 1.0, format_weight: float = 0.1
    ) -> None:
        for name, one in (("item", item), ("ranked", ranked)):
            if not {"format", "hit"} <= set(one.parts):
                raise ValueError(
                    f"{name}: a verifier tells format and hit apart, and {type(one).__name__} does not"
                )
        if min(accuracy, format_weight) < 0:
            raise ValueError(f"accuracy={accuracy}, format_weight={format_weight}: weights are at least 0")
        self.item, self.ranked = item, ranked
        self.accuracy, self.format_weight = accuracy, format_weight

    @property
    def bounds(self) -> tuple[float, float]:
        """Those of both verifiers together, weighted."""
        low = min(self.item.bounds[0], self.ranked.bounds[0])
        high = max(self.item.bounds[1], self.ranked.bounds[1])
        return self.accuracy * low, self.accuracy * high + self.format_weight

    def meet_items(self, items: DescribedItems) -> None:
        """Both verifiers get to know them."""
        self.item.meet_items(items)
        self.ranked.meet_items(items)

    def __call__(self, batch: RolloutBatch) -> Rewards:
        """See the class."""
        ranked = torch.tensor([batch.question(row).places > 1 for row in range(len(batch))])
        verifiers = [(self.ranked, ranked), (self.item, ~ranked)]
        found = [(verifier(batch), rows) for verifier, rows in verifiers if rows.any()]

        def chosen(name: str | None) -> torch.Tensor:
            values = torch.zeros(len(batch))
            for given, rows in found:
                values = torch.where(rows, given.total if name is None else given.parts[name], values)
            return values

        accuracy, formed = chosen(None), chosen("format")
        total = self.accuracy * accuracy + self.format_weight * formed
        return Rewards(total, {"accuracy": accuracy, "format": formed, "hit": chosen("hit")})
