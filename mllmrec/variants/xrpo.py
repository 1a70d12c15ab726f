"""XRPO: eXplore-eXploit GRPO (Bamba et al. 2025, arXiv 2510.06672).

Answers go to the prompts whose mean reward is least certain, and unlikely right answers earn more. `mllmrec.variants.icl_seed`
is its third part, which asks prompts again that fail.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from mllmrec.prompts.examples import Example
from mllmrec.rl.advantages import Advantage, GroupRelative
from mllmrec.rl.batch import RolloutBatch, join
from mllmrec.rl.parts import OLD
from mllmrec.rollout.base import Judge, PlainRollout, Speaker, Turn, WrappedRollout


class Allocated(WrappedRollout):
    """Spends N * G answers on N prompts: some on each, and in rounds the rest where they tell most.

    A prompt with n answers, whose rewards have the standard deviation s, has a confidence interval of half-width
    ``h(n) = t(1 - alpha / 2, n - 1) * s / sqrt(n)``. Of T answers so far, the next one goes to the prompt with the highest
    ``h(n) - h(n + 1) + bonus * sqrt(log(1 + T) / n)``; among equal ones to that with the fewest answers. The deviations are
    those from before the round.
    """

    def __init__(
        self,
        inner: PlainRollout,
        first: int | None = None,
        rounds: int = 2,
        alpha: float = 0.05,
        bonus: float = 0.1,
    ) -> None:
        """Set how to spend answers.

        Args:
            inner: draws them.
            first: answers to each prompt before the rounds, at most G; None: half of G, but two or more.
            rounds: draws after the first one.
            alpha: the intervals hold the mean with probability ``1 - alpha``.
            bonus: weight of the term for prompts with few answers.
        """
        super().__init__(inner)
        if inner.plain.every_answer:
            raise ValueError(
                "the rollout inside returns all answers at once: nothing is left to draw in rounds"
            )
        if first is not None and first < 2:
            raise ValueError(f"first={first}: must be 2 or more, since one answer has no deviation")
        if rounds < 1 or not 0 < alpha < 1 or bonus < 0:
            raise ValueError(
                f"rounds={rounds}, alpha={alpha:g} and bonus={bonus:g}: must be from 1 on, between 0 and 1, and not negative"
            )
        self.first, self.rounds, self.alpha, self.bonus = first, rounds, alpha, bonus
        self._most = self._least = 0.0

    def __call__(
        self, examples: Sequence[Example], speaker: Speaker, judge: Judge, turn: Turn
    ) -> RolloutBatch:
        """Groups of different sizes, N * G rows in all."""
        first = min(max(turn.group_size // 2, 2) if self.first is None else self.first, turn.group_size)
        batch = judge(speaker.complete(examples, Turn(turn.step, first)))
        left = len(examples) * (turn.group_size - first)
        names = [example.sample_id for example in examples]
        for round_ in range(1, self.rounds + 1):
            spent = left // (self.rounds - round_ + 1)
            left -= spent
            counts = self.shares(
                batch.groups.std(batch.judged()).numpy(), batch.groups.sizes.numpy(), spent, names
            )
            drawn = [
                speaker.complete(
                    examples,
                    Turn(turn.step, count),
                    which=(counts == count).nonzero()[0].tolist(),
                    round_=round_,
                )
                for count in sorted({*counts.tolist()} - {0})
            ]
            batch = join([batch, *map(judge, drawn)])
        self._least, self._most = float(batch.groups.sizes.min()), float(batch.groups.sizes.max())
        return batch

    def shares(
        self, deviations: np.ndarray, sizes: np.ndarray, spent: int, names: Sequence[str]
    ) -> np.ndarray:
        """How many more answers each prompt gets.

        Args:
            deviations: (N,) of the rewards of each prompt's answers.
            sizes: (N,) numbers of its answers, from 2 on.
            spent: how many more there are.
            names: (N,) of the prompts, so that their order does not matter.

        Returns:
            (N,) whole numbers, ``spent`` in all.
        """
        numbers = np.arange(2, sizes.max() + spent + 2)
        widths = np.zeros(len(numbers) + 2)
        widths[2:] = stats.t.ppf(1 - self.alpha / 2, numbers - 1) / np.sqrt(numbers)
        now, total = sizes.copy(), int(sizes.sum())
        place_of = np.argsort(np.argsort(np.array(names), kind="stable"), kind="stable")
        for _ in range(spent):
            worth = deviations * (widths[now] - widths[now + 1]) + self.bonus * np.sqrt(np.log1p(total) / now)
            best = np.lexsort((place_of, now, -worth))[0]
            now[best], total = now[best] + 1, total + 1
        return now - sizes

    def metrics(self) -> dict[str, float]:
        """The fewest and the most answers that a prompt got."""
        return {"xrpo/least": self._least, "xrpo/most": self._most}


class Novelty(Advantage):
    """GRPO's advantages, and more of them for right answers that are less likely than the others of their group.

    With ``s_i`` the mean log-probability of a row's learnt tokens and ``eta_i = exp(s_i - mean of s in the group)``, an
    advantage ``A_i`` above 0 grows by ``min(max(weight * (1 - eta_i), 0), most * A_i)``; others stay. ``scale`` and ``epsilon``
    are those of `GroupRelative`.
    """

    needs = frozenset({OLD})

    def __init__(
        self, weight: float = 2.5, most: float = 0.5, scale: str = "group", epsilon: float = 1e-4
    ) -> None:
        if weight < 0 or most < 0:
            raise ValueError(f"weight={weight:g} and most={most:g}: must not be negative")
        self.weight, self.most, self.plain = weight, most, GroupRelative(scale, epsilon)
        self._sharpened = 0.0

    def __call__(self, batch: RolloutBatch) -> Tensor:
        """(R,)."""
        assert batch.old is not None
        learnt = batch.learnt
        mean = (torch.where(learnt, batch.old, 0.0).sum(1) / learnt.sum(1).clamp_min(1)).float().cpu()
        novelty = (mean - batch.groups.rows(batch.groups.mean(mean))).exp()
        plain = self.plain(batch)
        more = torch.minimum((self.weight * (1 - novelty)).clamp_min(0), self.most * plain.clamp_min(0))
        self._sharpened = float((more > 0).float().mean())
        return plain + more

    def metrics(self) -> dict[str, float]:
        """The share of rows whose advantage grew."""
        return {"xrpo/sharpened": self._sharpened}
