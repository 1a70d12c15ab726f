"""From examples to judged rollouts: completions, what their judges need to know, rewards, shaped rewards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from mllmrec.prompts.examples import Example
from mllmrec.ranks import the_ranks
from mllmrec.rewards.base import Reward, Rewards, Shaper, TextReward, with_rewards
from mllmrec.rl.batch import RolloutBatch
from mllmrec.rl.parts import GREEDY, OLD, REFERENCE, TEACHER, Part
from mllmrec.rollout.base import Rollout, Turn
from mllmrec.step.drawn import DrawnNumbers
from mllmrec.step.reference import Reference
from mllmrec.step.refill import Refill
from mllmrec.step.speaker import Speaker
from mllmrec.step.teacher import Teacher


class Collector:
    """Asks the rollout for completions and judges them."""

    def __init__(
        self,
        speaker: Speaker,
        rollout: Rollout,
        reward: Reward,
        *,
        shapers: Sequence[Shaper] = (),
        reference: Reference | None = None,
        teacher: Teacher | None = None,
        refill: Refill | None = None,
    ) -> None:
        """Put the parts together.

        Args:
            speaker: the policy.
            rollout: makes the completions.
            reward: judges them.
            shapers: change the rewards afterwards, in this order.
            reference: scores completions for parts that need it.
            teacher: likewise.
            refill: replaces groups that teach nothing.
        """
        self.speaker, self.rollout, self.reward = speaker, rollout, reward
        self.shapers, self.reference, self.teacher = tuple(shapers), reference, teacher
        self.refill = refill
        self._drawn = DrawnNumbers()

    @property
    def parts(self) -> list[Part]:
        """All parts, in the order in which they act."""
        given = (*self.rollout.layers, self.reward, *self.shapers, self.reference, self.teacher, self.refill)
        return [part for part in given if part is not None]

    @property
    def bounds(self) -> tuple[float, float]:
        """The lowest and the highest possible reward, after shaping."""
        low, high = self.reward.bounds
        for shaper in self.shapers:
            low, high = shaper.bounds(low, high)
        return low, high

    def metrics(self) -> dict[str, float]:
        """The parts' numbers to log. Those of rollout, reward and shapers cover every draw of the last step."""
        judges = [part for part in (self.reference, self.teacher, self.refill) if part is not None]
        return self._drawn.metrics() | {
            name: value for part in judges for name, value in part.metrics().items()
        }

    def collect(self, examples: Sequence[Example], turn: Turn) -> RolloutBatch:
        """The judged completions of N examples, or of others in their places; each group's rows together.

        Raises:
            ValueError: an off-policy rollout did not say with which probabilities its rows were drawn.
        """
        batch = self._judged(examples, turn)
        if self.refill is None:
            return batch
        # Others join a batch whose own pass is then no longer that of the whole, so they need no graph.
        return self.refill(batch, lambda others: self._judged(others, replace(turn, gradients=False)))

    def _judged(self, examples: Sequence[Example], turn: Turn) -> RolloutBatch:
        """The completions of these examples with their shaped rewards.

        Raises:
            ValueError: an off-policy rollout did not say with which probabilities its rows were drawn.
        """
        batch = self.rollout(examples, self.speaker, self.judge, turn).by_group()
        if self.rollout.off_policy and batch.old is None:
            raise ValueError(f"{type(self.rollout).__name__} is off-policy and left `old` empty")
        # A rollout that judges as it goes may have changed groups since; a reward may look at the whole group.
        by_text = judges_texts(self.reward)
        if batch.rewards is None or not (self.rollout.judges or by_text):
            batch = self.judge(batch)
        for shaper in self.shapers:
            batch = self.fill(batch, shaper.needs)
            batch = with_rewards(batch, shaper(batch))
        acted = (*self.rollout.layers, self.reward, *self.shapers)
        self._drawn.add(batch, {name: value for part in acted for name, value in part.metrics().items()})
        return batch

    def judge(self, batch: RolloutBatch) -> RolloutBatch:
        """The batch with its rewards, before shaping."""
        batch = self.fill(batch, self.reward.needs)
        return with_rewards(batch, rewarded(self.reward, batch))

    def fill(self, batch: RolloutBatch, needs: frozenset[str], rows: Tensor | None = None) -> RolloutBatch:
        """The batch with the log-probabilities and greedy rewards that a part needs.

        Args:
            batch: the completions.
            needs: names of fields.
            rows: the rows that will be read; None: all.
        """
        if OLD in needs and batch.old is None:
            batch = replace(batch, old=self.speaker.score(batch, rows=rows))
        if REFERENCE in needs and batch.reference is None:
            if self.reference is None:
                raise ValueError("a part needs a reference, and there is none")
            with self.reference.model(self.speaker.policy) as model:
                batch = replace(batch, reference=self.speaker.score(batch, model=model, rows=rows))
        if TEACHER in needs and batch.teacher is None:
            if self.teacher is None:
                raise ValueError("a part needs a teacher, and there is none")
            batch = replace(batch, teacher=self.teacher(batch, self.speaker, rows))
        if GREEDY in needs and batch.greedy is None:
            batch = replace(batch, greedy=self.greedy_rewards(batch)[batch.example_of])
        return batch

    def greedy_rewards(self, batch: RolloutBatch) -> Tensor:
        """(N,) the reward, before shaping, of one more completion of each example: the greedy one."""
        turn = Turn(batch.step, 1, greedy=True)
        drawn = self.judge(self.speaker.complete(batch.examples, turn, round_="greedy"))
        if drawn.weights is None:
            return drawn.judged()  # one row for each example, in order
        # All answers: the most likely one of each example.
        rows = [
            int(torch.where(drawn.example_of == place, drawn.weights.cpu(), -1.0).argmax())
            for place in range(len(batch.examples))
        ]
        return drawn.judged()[rows]


def judges_texts(reward: Reward) -> bool:
    """Whether a row's reward depends on its text alone."""
    return type(reward).__call__ is TextReward.__call__


def rewarded(reward: Reward, batch: RolloutBatch) -> Rewards:
    """The rewards of all rows.

    Of several processes each judges its share if rows are judged one by one. All other rewards compare rows, and so every
    process judges the whole batch.
    """
    ranks = the_ranks()
    if not ranks.several or not judges_texts(reward):
        return reward(batch)
    part = ranks.share(len(batch))
    rows = torch.arange(len(batch))[part]
    found = [one for one in ranks.each(lambda: reward(batch.take(rows)) if len(rows) else None) if one]
    parts = {name: torch.cat([one.parts[name] for one in found]) for name in found[0].parts}
    return Rewards(torch.cat([one.total for one in found]), parts)
