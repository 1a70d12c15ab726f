"""Shapers that pay for the length of an answer, in tokens, of which a phase may use one: DAPO's, GRPO-lambda's, Gazal-R1's."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from mllmrec.rewards.base import Rewards, Shaper
from mllmrec.rl.batch import RolloutBatch
from mllmrec.rl.groups import Groups


class Overlong(Shaper):
    """DAPO's soft penalty (Yu et al. 2025, arXiv 2503.14476): it grows from 0 to 1 over the last ``buffer`` tokens.

    A completion of ``T`` tokens, with its end token, loses ``(T - (limit - buffer)) / buffer``, held between 0 and 1.

    Raises:
        ValueError: ``buffer`` is not between 1 and ``limit``.
    """

    shapes_length = True
    parts = ("overlong",)

    def __init__(self, limit: int, buffer: int) -> None:
        if not 1 <= buffer <= limit:
            raise ValueError(f"buffer={buffer}: must be between 1 and limit={limit}")
        self.limit, self.buffer = limit, buffer

    def bounds(self, low: float, high: float) -> tuple[float, float]:
        """Up to 1 less."""
        return low - 1, high

    def __call__(self, batch: RolloutBatch) -> Rewards:
        """See the class; the part is what was added, (R,)."""
        over = (lengths_of(batch) - (self.limit - self.buffer)) / self.buffer
        penalty = -over.clamp(0, 1)
        return Rewards(batch.judged() + penalty, {"overlong": penalty})


class ShortIfRight(Shaper):
    """GRPO-lambda (Dai et al. 2025, arXiv 2505.18086): where most answers are right, the short ones earn more.

    In the share ``top`` of the step's groups with the most right answers, at least one group, the reward of a right row is
    multiplied by ``1 - alpha * sigmoid((T - mean) / std)``, with the mean and deviation of ``T`` over the group's right
    rows. Everything else stays as it is. ``alpha`` is uncertain: public code has 0.2 and 0.6. So is the rounding of ``top``.

    The accuracy is the reward's part of this name, or the total if the reward has no such part.

    Args:
        alpha: what a very long right answer loses, as a share of its reward.
        top: share of the groups whose lengths are paid for.
        right: the least accuracy of a right answer.
        accuracy: name of the part.
        unbiased: whether the deviation of n draws has the divisor n - 1, or n.
    """

    shapes_length = True
    parts = ("short",)

    def __init__(
        self,
        alpha: float = 0.2,
        top: float = 0.2,
        right: float = 1.0,
        accuracy: str = "hit",
        unbiased: bool = True,
    ) -> None:
        for name, value in (("alpha", alpha), ("top", top)):
            if not 0 < value <= 1:
                raise ValueError(f"{name}={value}: must be above 0 and at most 1")
        self.alpha, self.top, self.right = alpha, top, right
        self.accuracy, self.unbiased = accuracy, unbiased

    def bounds(self, low: float, high: float) -> tuple[float, float]:
        """A positive reward of a right answer shrinks, and so does a negative one."""
        return low if low < 0 else low * (1 - self.alpha), max(high, 0.0)

    def __call__(self, batch: RolloutBatch) -> Rewards:
        """See the class; the part is the factor, (R,)."""
        total, groups = batch.judged(), batch.groups
        right = batch.parts.get(self.accuracy, total) >= self.right - 1e-6
        share = groups.mean(right.to(total.dtype))
        chosen = torch.zeros(groups.count, dtype=torch.bool)
        count = math.ceil(self.top * groups.count - 1e-9)
        chosen[share.argsort(descending=True, stable=True)[:count]] = True
        length = standard_lengths(lengths_of(batch), right, groups, self.unbiased)
        paid = right & groups.rows(chosen)
        factor = torch.where(paid, 1 - self.alpha * length.sigmoid(), 1.0)
        return Rewards(total * factor, {"short": factor})


class Cosine(Shaper):
    """Adds a term that goes from its value at no tokens to that at ``limit`` tokens along half a cosine wave.

    The term is ``end + (start - end) * (1 + cos(pi * T / limit)) / 2``, with one pair of values for right rows and one for
    wrong ones. So right answers can be paid for being short, and wrong ones for trying longer. This is how such terms are
    usually written; that of Gazal-R1 (Adly et al. 2025, arXiv 2506.21594) is uncertain.

    The accuracy is the reward's part of this name, or the total if the reward has no such part.

    Args:
        limit: tokens; longer completions earn ``end``.
        right: start and end for right rows.
        wrong: start and end for all others.
        least: the least accuracy of a right row.
        accuracy: name of the part.
    """

    shapes_length = True
    parts = ("length",)

    def __init__(
        self,
        limit: int,
        right: Sequence[float] = (0.1, 0.0),
        wrong: Sequence[float] = (-0.1, 0.0),
        least: float = 1.0,
        accuracy: str = "hit",
    ) -> None:
        if limit < 1:
            raise ValueError(f"limit={limit}: must be at least 1")
        for name, pair in (("right", right), ("wrong", wrong)):
            if len(pair) != 2:
                raise ValueError(f"{name}={list(pair)}: must be two numbers, at no tokens and at the limit")
        self.limit, self.right, self.wrong = limit, tuple(right), tuple(wrong)
        self.least, self.accuracy = least, accuracy

    def bounds(self, low: float, high: float) -> tuple[float, float]:
        """Whatever is added."""
        ends = (*self.right, *self.wrong)
        return low + min(ends), high + max(ends)

    def __call__(self, batch: RolloutBatch) -> Rewards:
        """See the class; the part is what was added, (R,)."""
        total = batch.judged()
        right = batch.parts.get(self.accuracy, total) >= self.least - 1e-6
        start = torch.where(right, self.right[0], self.wrong[0])
        end = torch.where(right, self.right[1], self.wrong[1])
        wave = (1 + (math.pi * lengths_of(batch).clamp_max(self.limit) / self.limit).cos()) / 2
        term = end + (start - end) * wave
        return Rewards(total + term, {"length": term})


def lengths_of(batch: RolloutBatch) -> Tensor:
    """(R,) tokens of each completion, with its end token, as float32 on the CPU."""
    return batch.completions.mask.sum(1).float().cpu()


def standard_lengths(lengths: Tensor, right: Tensor, groups: Groups, unbiased: bool) -> Tensor:
    """How many deviations of its group's right rows a length is above their mean; 0 where they do not differ.

    Args:
        lengths: (R,).
        right: (R,) bool.
        groups: of the rows; if they have weights, mean and deviation are exact.
        unbiased: whether the deviation of n draws has the divisor n - 1, or n.

    Returns:
        (R,), of no meaning where ``right`` is false.
    """
    counted = right.to(lengths.dtype)
    share = groups.mean(counted).clamp_min(1e-12)
    away = lengths - groups.rows(groups.mean(counted * lengths) / share)
    variance = groups.mean(counted * away.square()) / share
    if unbiased and groups.weights is None:
        number = share * groups.sizes
        variance = variance * number / (number - 1).clamp_min(1)
    deviation = groups.rows(variance.sqrt())
    return torch.where(deviation > 1e-6, away / deviation.clamp_min(1e-6), 0.0)
