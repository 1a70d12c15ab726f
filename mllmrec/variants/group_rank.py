"""GroupRank (Sun et al. 2025, arXiv 2511.11653): a ranked list is paid by several measures of rankings at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mllmrec.rewards.base import Question, TextReward
from mllmrec.rewards.hit_format import named_items


class RankingMix(TextReward):
    """``recall * R + ndcg * N + rbo * B`` of a valid ranked list; ``invalid`` for any other answer.

    ``R`` is whether the target is among the first ``k``, ``N`` the list's NDCG, and ``B`` the rank-biased overlap with the
    ranking of the target alone, as a share of what the best list has. The weights are uncertain.

    The authors' answers score candidates, and a fourth term compares the scores with known ones. Lists have no scores, so
    it is left out.

    Args:
        recall: weight of the recall.
        ndcg: weight of the NDCG.
        rbo: weight of the overlap.
        k: cut-off of the recall.
        p: how much each next depth counts in the overlap, as a share of the one before.
        invalid: paid for anything but a valid list.
        require_title: whether a list without titles is invalid.

    Raises:
        ValueError: a weight is negative, ``k`` is no place, or ``p`` is not between 0 and 1.
    """

    parts = ("format", "hit", "recall", "ndcg", "rbo")

    def __init__(
        self,
        recall: float = 1.0,
        ndcg: float = 1.0,
        rbo: float = 0.5,
        k: int = 3,
        p: float = 0.9,
        invalid: float = 0.0,
        require_title: bool = False,
    ) -> None:
        if min(recall, ndcg, rbo) < 0 or k < 1 or not 0 < p < 1:
            raise ValueError(
                f"recall={recall}, ndcg={ndcg}, rbo={rbo}, k={k} and p={p}: weights are at least 0, k at least 1, and p between "
                "0 and 1"
            )
        self.weights, self.k, self.p = {"recall": recall, "ndcg": ndcg, "rbo": rbo}, k, p
        self.invalid, self.needs_title = invalid, require_title

    @property
    def bounds(self) -> tuple[float, float]:
        """The lowest and the highest possible total."""
        return min(self.invalid, 0.0), max(self.invalid, sum(self.weights.values()))

    def judge(self, completion: str, question: Question) -> dict[str, float]:
        """The total under ``"reward"`` and every part under its own name."""
        named = named_items(completion, question, self.needs_title)
        if named is None:
            return {"reward": self.invalid, **dict.fromkeys(self.parts, 0.0)}
        target = question.target_id
        best = [target, *("" for _ in named[1:])]  # nobody knows what follows the target
        measured = {
            "recall": float(target in named[: self.k]),
            "ndcg": ndcg([float(item == target) for item in named]),
            "rbo": overlap(named, best, self.p) / overlap([target] * len(named), best, self.p),
        }
        total = sum(self.weights[name] * value for name, value in measured.items())
        return {"reward": total, "format": 1.0, "hit": float(named[0] == target), **measured}


def ndcg(relevance: Sequence[float]) -> float:
    """The discounted gain ``2 ** relevance - 1`` of a ranking over that of the best order; 0 if nothing is relevant."""
    discounts = 1 / (torch.arange(len(relevance)) + 2.0).log2()
    gains = 2 ** torch.tensor(list(relevance)) - 1
    best = float((gains.sort(descending=True).values * discounts).sum())
    return float((gains * discounts).sum()) / best if best > 0 else 0.0


def overlap(one: Sequence[str], other: Sequence[str], p: float) -> float:
    """The rank-biased overlap of two rankings, up to the length of the shorter: ``(1 - p) * sum of p^(d-1) * shared_d / d``."""
    depths = range(1, min(len(one), len(other)) + 1)
    return (1 - p) * sum(p ** (d - 1) * len(set(one[:d]) & set(other[:d])) / d for d in depths)
