"""Reinforce-Ada (Xiong et al. 2025, arXiv 2510.04996): prompts without a good answer are asked again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from mllmrec.prompts.examples import Example
from mllmrec.rl.advantages import Advantage
from mllmrec.rl.batch import RolloutBatch, join
from mllmrec.rollout.base import Judge, PlainRollout, Speaker, Turn, WrappedRollout


class Adaptive(WrappedRollout):
    """Draws in rounds, ``draws`` answers of each prompt that is still asked, and keeps G of all its answers.

    A prompt is no longer asked once it has enough positive answers, those with a reward above ``positive``: one
    (``until="positive"``), or half of G, and as many others (``until="balanced"``). All its answers are its pool. Of
    these it keeps the earliest positive and the earliest other ones, equally many if there are enough of both. The
    batch's ``pool`` has the mean and the deviation of all rewards of each prompt's pool, for `PoolBaseline`.
    """

    def __init__(
        self,
        inner: PlainRollout,
        draws: int = 8,
        rounds: int = 4,
        positive: float = 0.7,
        until: Literal["positive", "balanced"] = "balanced",
    ) -> None:
        super().__init__(inner)
        if inner.plain.every_answer:
            raise ValueError(
                "the rollout inside returns all answers at once: nothing is left to draw in rounds"
            )
        if draws < 1 or rounds < 1:
            raise ValueError(f"draws={draws} and rounds={rounds}: must be numbers from 1 on")
        self.draws, self.rounds, self.positive, self.until = draws, rounds, positive, until
        self._metrics: dict[str, float] = {}

    def __call__(
        self, examples: Sequence[Example], speaker: Speaker, judge: Judge, turn: Turn
    ) -> RolloutBatch:
        """See `Rollout`; a group has G rows, or all of its pool if that is smaller."""
        asked, drawn = list(range(len(examples))), []
        good, others = [0] * len(examples), [0] * len(examples)
        half = turn.group_size // 2
        least, least_others = (1, 0) if self.until == "positive" else (half, half)
        once = replace(turn, group_size=self.draws, gradients=False)
        for round_ in range(self.rounds):
            batch = judge(speaker.complete(examples, once, which=asked, round_=round_))
            drawn.append(batch)
            for place, reward in zip(batch.example_of.tolist(), batch.judged().tolist(), strict=True):
                (good if reward > self.positive else others)[place] += 1
            asked = [place for place in asked if good[place] < least or others[place] < least_others]
            if not asked:
                break
        pool = join(drawn)
        self._metrics = {
            "adaptive/pool_size": len(pool) / len(examples),
            "adaptive/pool_reward": float(pool.groups.mean(pool.judged()).mean()),
            "adaptive/without_positive": sum(count == 0 for count in good) / len(examples),
        }
        statistics = {
            "mean": pool.groups.mean(pool.judged()),
            "std": pool.groups.mean(pool.groups.centred(pool.judged()).square()).sqrt(),
        }
        return replace(pool, pool=statistics).take(self.kept(pool, turn.group_size))

    def kept(self, pool: RolloutBatch, size: int) -> Tensor:
        """The rows to keep: ``size`` of each group, half of them positive as far as there are enough of both."""
        positive = pool.judged() > self.positive
        rows: list[int] = []
        for group in range(pool.groups.count):
            own = pool.group_of == group
            good, bad = ((own & which).nonzero()[:, 0].tolist() for which in (positive, ~positive))
            count = min(len(good), max(size // 2, size - len(bad)))
            rows += sorted(good[:count] + bad[: size - count])
        return torch.tensor(rows)

    def metrics(self) -> dict[str, float]:
        """Answers drawn for a prompt and their mean reward, and the share of prompts without a positive one.

        The logged ``reward`` is that of the answers that are kept, half of them positive where there are enough.
        """
        return self._metrics


class PoolBaseline(Advantage):
    """``r - mean of the prompt's pool``, which the rollout knows; with ``scale``, divided by the pool's deviation.

    For rewards of 0 and 1 and p = the pool's share of ones these are ``r - p`` and ``(r - p) / sqrt(p (1 - p))``. After
    a rollout without pools a group is its own pool.
    """

    def __init__(self, scale: bool = False, epsilon: float = 1e-6) -> None:
        self.scale, self.epsilon = scale, epsilon

    def __call__(self, batch: RolloutBatch) -> Tensor:
        """(R,)."""
        rewards, groups = batch.judged(), batch.groups
        known = batch.pool or {
            "mean": groups.mean(rewards),
            "std": groups.mean(groups.centred(rewards).square()).sqrt(),
        }
        mean, std = groups.rows(known["mean"]), groups.rows(known["std"])
        # Rounding may have shifted the mean of a pool of equal rewards.
        given = (rewards - mean).masked_fill(std <= self.epsilon, 0.0)
        return given / (std + self.epsilon) if self.scale else given
