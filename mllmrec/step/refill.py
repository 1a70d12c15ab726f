"""Steps that are filled up: groups that teach nothing are replaced by the answers to other prompts (DAPO)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mllmrec.prompts.examples import Example
from mllmrec.rl.batch import RolloutBatch, stack
from mllmrec.rl.parts import Part
from mllmrec.step.sampler import Pool, PromptSampler, pass_order


class Dynamic(PromptSampler):
    """Passes over all entries; a step goes on to the next ones until it has B entries whose answers are worth learning.

    Answers are worth learning if the standard deviation of their rewards, with divisor G, is at least ``least_std``, and
    if the share of them that earn ``right`` or more lies within ``share``. A round asks as many new prompts as are still
    missing. After ``rounds`` of them, or once all entries were asked, the step learns from what it has.
    """

    def __init__(
        self,
        least_std: float = 1e-6,
        share: Sequence[float] | None = None,
        right: float = 1.0,
        rounds: int = 10,
    ) -> None:
        if share is not None and not (len(share) == 2 and 0 <= share[0] <= share[1] <= 1):
            raise ValueError(f"share={list(share)}: must be two shares of right answers, as in [0.25, 0.75]")
        if rounds < 1:
            raise ValueError(f"rounds={rounds}: must be a number from 1 on")
        if least_std < 0:
            raise ValueError(f"least_std={least_std:g}: must not be negative")
        self.least_std, self.share, self.right, self.rounds = least_std, share, right, rounds
        self._pass = self._place = 0

    def begin(self, pool: Pool) -> None:
        """See `PromptSampler`."""
        super().begin(pool)
        self._pass = self._place = 0

    def plan(self, step: int) -> np.ndarray:
        """See `PromptSampler`; without refills these are the steps of `Shuffled`."""
        return self._next(self.pool.batch_size)

    def more(self, count: int, shown: np.ndarray) -> np.ndarray:
        """(n,) the next entries that the step has not ``shown`` yet, at most ``count``; none if all were shown."""
        found: list[int] = []
        seen = set(shown.tolist())
        while len(found) < count and len(seen) < self.pool.size:
            new = [entry for entry in self._next(count - len(found)).tolist() if entry not in seen]
            found += new
            seen.update(new)
        return np.array(found, dtype=np.int64)

    def keeps(self, batch: RolloutBatch) -> Tensor:
        """(N,) bool: the examples of a judged batch with a group that is worth learning."""
        groups, rewards = batch.groups, batch.judged()
        worth = groups.mean(groups.centred(rewards).square()).sqrt() >= self.least_std
        if self.share is not None:
            low, high = self.share
            right = groups.mean((rewards >= self.right).float())
            worth &= (right >= low - 1e-6) & (right <= high + 1e-6)
        kept = torch.zeros(len(batch.examples), dtype=torch.bool)
        kept[batch.example_of[groups.rows(worth)]] = True
        return kept

    def _next(self, count: int) -> np.ndarray:
        if self._place >= self.pool.size:
            self._pass, self._place = self._pass + 1, 0
        order = pass_order(self.pool.size, self.pool.seed, self.pool.purpose, self._pass)
        entries = order[self._place : self._place + count]
        self._place += len(entries)
        return entries

    def state_dict(self) -> dict[str, Any]:
        """The pass, and how far it has come."""
        return {"pass": self._pass, "place": self._place}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Part`."""
        self._pass, self._place = state["pass"], state["place"]


class Refill(Part):
    """Replaces the examples of a step that a sampler does not keep."""

    def __init__(self, sampler: Dynamic, more: Callable[[int], Sequence[Example]]) -> None:
        """Take who decides.

        Args:
            sampler: says which examples are kept.
            more: at most so many other examples for the step; none if there are no more.
        """
        self.sampler, self.more = sampler, more
        self.kept: list[int] = []  # the last step's examples, as places among all that were asked
        self._metrics: dict[str, float] = {}

    def __call__(
        self, batch: RolloutBatch, draw: Callable[[Sequence[Example]], RolloutBatch]
    ) -> RolloutBatch:
        """The groups that are kept, of as many examples as the batch has, if there are enough.

        A batch that is kept whole comes back as it is, and so does one in whose step nothing is kept.

        Args:
            batch: the step's first judged rollouts.
            draw: the judged rollouts of other examples.
        """
        first, wanted = batch, len(batch.examples)
        parts, kept, asked, reward = [], list[int](), 0, 0.0
        round_ = 0
        while True:
            round_ += 1
            places = self.sampler.keeps(batch).nonzero()[:, 0][: wanted - len(kept)]
            if len(places):
                parts.append(of_examples(batch, places))
            kept += [asked + place for place in places.tolist()]
            reward += float(batch.groups.mean(batch.judged()).mean()) * len(batch.examples)
            asked += len(batch.examples)
            if len(kept) == wanted or round_ == self.sampler.rounds:
                break
            others = self.more(wanted - len(kept))
            if not others:
                break
            batch = draw(others)
        self._metrics = {
            "refill/rounds": float(round_),
            "refill/asked": float(asked),
            "refill/kept": len(kept) / asked,
            "refill/reward": reward / asked,
        }
        if not kept or kept == list(range(wanted)):
            self.kept = list(range(wanted))
            return first
        self.kept = kept
        return stack(parts)

    def metrics(self) -> dict[str, float]:
        """Rounds of the last step, prompts asked, the share of them that was kept, and the mean reward of all of them.

        The logged ``reward`` is that of the kept ones.
        """
        return self._metrics


def of_examples(batch: RolloutBatch, places: Tensor) -> RolloutBatch:
    """The batch with only some examples, (n,) places in rising order, and their groups."""
    taken = batch.take(torch.isin(batch.example_of, places).nonzero()[:, 0])
    groups, group_of = taken.group_of.unique(return_inverse=True)
    return replace(
        taken,
        examples=[batch.examples[place] for place in places.tolist()],
        questions=[batch.questions[place] for place in places.tolist()],
        example_of=torch.searchsorted(places, taken.example_of),
        group_of=group_of,
        pool={name: values[groups] for name, values in batch.pool.items()},
    )
