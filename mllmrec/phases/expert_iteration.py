"""Expert iteration: in each round the policy answers, answers that are good enough are kept, and SFT learns them.

Rejection sampling and fine-tuning follow ReST-EM (Singh et al. 2024, arXiv 2312.06585), with one exception: ReST-EM trains
the base model anew in every round. Here each round continues from the policy of the last one, as in RAFT (Dong et al. 2023,
arXiv 2304.06767).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor

from mllmrec.errors import UserError
from mllmrec.phases.base import Learner, OptimizerSettings
from mllmrec.phases.grpo import RolloutPhase
from mllmrec.phases.sft import candidate_trie, supervised_shares
from mllmrec.prompts.examples import Example
from mllmrec.prompts.trie import AnswerTrie
from mllmrec.rl.batch import RolloutBatch, stack
from mllmrec.rollout.base import Turn
from mllmrec.step.collector import Collector


@dataclass(frozen=True)
class Kept:
    """An answer to learn."""

    prompt: list[int]
    answer: list[int]
    weight: float
    competing: AnswerTrie | None = None  # the answers that compete with it; None: the whole vocabulary


@dataclass(frozen=True)
class RoundSettings:
    """The numbers of a round."""

    group_size: int  # answers drawn for each prompt
    micro_batch_size: int  # answers through the model at once
    batch_size: int  # prompts of an update
    threshold: float  # the lowest reward of an answer that is kept; the answer must also have ended by itself
    # How often to count an answer that was drawn several times for a prompt: once, or all for every draw. Up to scale,
    # all has the expected gradient of the share of kept answers.
    repeats: str = "once"
    loss_on: str = "answer"  # see `Sft`: answer, or candidates if only their answers are possible


class ExpertIteration(RolloutPhase):
    """One round: the current policy answers the round's prompts, then updates learn the answers that are kept."""

    name = section = "expert_iteration"
    divides_steps = True

    def __init__(
        self,
        collector: Collector,
        optimizer: OptimizerSettings,
        updates: int,
        settings: RoundSettings,
        on_rollouts: Callable[[RolloutBatch], None] | None = None,
    ) -> None:
        """Put the parts together.

        Args:
            collector: makes and judges the answers.
            optimizer: the optimiser's settings.
            updates: optimiser steps in the whole phase.
            settings: the numbers of a round.
            on_rollouts: called with every round's rollouts.

        Raises:
            UserError: no reward reaches the threshold, or the loss is on candidates while rollouts are free.
        """
        super().__init__(collector, optimizer, updates)
        if collector.reference is not None:
            collector.reference.begin(collector.speaker.policy)
        highest = self.bounds[1]
        if settings.threshold > highest:
            raise UserError(
                f"expert_iteration.threshold={settings.threshold} exceeds the highest reward, {highest}, so nothing "
                "would be learnt: lower the threshold"
            )
        plain = collector.rollout.plain
        if settings.loss_on == "candidates" and (not plain.constrained or plain.reasons or plain.lists):
            raise UserError(
                "expert_iteration.loss_on=candidates with rollouts that say more than a candidate's answer: set "
                "expert_iteration.loss_on=answer, or choose another rollout"
            )
        self.round, self.on_rollouts = settings, on_rollouts
        speaker = collector.speaker
        self.learner = Learner(speaker.policy, speaker.engine, settings.micro_batch_size)
        self.policy, self.answers = speaker.policy, speaker.answers

    def training_step(self, batch: list[Example], batch_idx: int) -> None:
        """One round from its prompts; it logs means over the round."""
        rollouts = self.collect(batch, batch_idx)
        if self.on_rollouts is not None:
            self.on_rollouts(rollouts)
        kept = self.keep(rollouts, self._competing(batch))
        size = self.round.batch_size
        sums: dict[str, float] = {}
        with self.learning_from(rollouts):
            updates = [
                self.update(self.loss_shares(list(chain(*kept[start : start + size])), sums))
                for start in range(0, len(batch), size)
            ]
        if self.collector.reference is not None:
            self.collector.reference.follow(self.policy, batch_idx)
        self.tokens.add(sum(len(one.answer) for one in chain(*kept)))
        entropy = {"entropy": sums["entropy"] / sums["tokens"]} if sums.get("tokens") else {}
        self.log_step(
            {
                **{name: sum(update[name] for update in updates) / len(updates) for name in updates[0]},
                **entropy,
                **self.rollout_metrics(rollouts),
                **self.tokens.metrics(),
                "kept/answers": sum(map(len, kept)) / len(batch),
                "kept/prompts": sum(map(bool, kept)) / len(batch),
                # Lightning would count rounds, but rankings of held-out users are logged by updates.
                "step": self.global_step - 1,
            }
        )

    def collect(self, batch: Sequence[Example], step: int) -> RolloutBatch:
        """The judged answers to a round's prompts, drawn for a few prompts at a time."""
        turn = Turn(step, self.round.group_size)
        chunk = max(1, self.round.micro_batch_size // turn.group_size)
        with self.drawing(step):
            pieces = [
                self.collector.collect(batch[start : start + chunk], turn)
                for start in range(0, len(batch), chunk)
            ]
        return stack(pieces)

    def _competing(self, examples: Sequence[Example]) -> list[AnswerTrie] | None:
        if self.round.loss_on == "answer":
            return None
        return [candidate_trie(self.answers, example) for example in examples]

    def keep(self, batch: RolloutBatch, competing: Sequence[AnswerTrie] | None = None) -> list[list[Kept]]:
        """The distinct answers to learn for each of N examples, in the order in which they were drawn.

        Args:
            batch: the judged rollouts.
            competing: for each example, the answers that compete in its loss; None: the whole vocabulary.
        """
        good = (batch.judged() >= self.round.threshold) & batch.finished.cpu()
        counts = torch.ones(len(good)) if batch.weights is None else batch.weights.cpu()
        tries: Sequence[AnswerTrie | None] = competing or [None] * len(batch.examples)
        found: list[dict[tuple[tuple[int, ...], tuple[int, ...]], float]] = [{} for _ in batch.examples]
        for row in good.nonzero()[:, 0].tolist():
            prompt, prompts = int(batch.prompt_of[row]), batch.prompts
            asked = tuple(prompts.ids[prompt][prompts.mask[prompt]].tolist())
            answer = tuple(batch.completions.ids[row][batch.completions.mask[row]].tolist())
            own = found[int(batch.example_of[row])]
            own[asked, answer] = own.get((asked, answer), 0.0) + float(counts[row])
        return [
            [
                Kept(list(prompt), list(answer), 1.0 if self.round.repeats == "once" else count, trie)
                for (prompt, answer), count in own.items()
            ]
            for own, trie in zip(found, tries, strict=True)
        ]

    def loss_shares(self, kept: Sequence[Kept], sums: dict[str, float] | None = None) -> Iterator[Tensor]:
        """SFT's loss on kept answers; nothing if none was kept.

        Args:
            kept: the answers.
            sums: see `supervised_shares`.
        """
        tries = [one.competing for one in kept if one.competing is not None]
        return supervised_shares(
            self.learner,
            [one.prompt for one in kept],
            [one.answer for one in kept],
            weights=[one.weight for one in kept],
            tries=tries or None,
            sums=sums,
        )


def updates_of(batches: Iterable[Sized], batch_size: int) -> int:
    """The number of optimiser steps in a phase with these rounds of prompts."""
    return sum(math.ceil(len(batch) / batch_size) for batch in batches)
