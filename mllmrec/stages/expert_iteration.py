"""Expert iteration: in each round the policy answers, answers that are good enough are kept, and SFT learns them.

Rejection sampling and fine-tuning follow ReST-EM (Singh et al. 2024, arXiv 2312.06585), with one exception: ReST-EM trains
the base model anew in every round. Here each round continues from the policy of the last one, as in RAFT (Dong et al. 2023,
arXiv 2304.06767).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from mllmrec.errors import UserError
from mllmrec.prompts.examples import Example
from mllmrec.prompts.trie import AnswerTrie
from mllmrec.stages.rollouts import Rewarded, RolloutStage
from mllmrec.stages.sft import candidate_trie, supervised_shares


@dataclass(frozen=True)
class Kept:
    """An answer to learn."""

    prompt: list[int]
    answer: list[int]
    weight: float
    competing: AnswerTrie | None = None  # the answers that compete with it; None: the whole vocabulary


class ExpertIteration(RolloutStage):
    """One round: the current policy answers the round's prompts, then updates learn the answers that are kept."""

    name = "expert_iteration"

    def __init__(
        self,
        *args: Any,
        threshold: float,
        repeats: str,
        batch_size: int,
        loss_on: str = "answer",
        **settings: Any,
    ) -> None:
        """Put the parts together.

        Args:
            args: see `RolloutStage`.
            threshold: the lowest reward of an answer that is kept; the answer must also have ended by itself.
            repeats: how often to count an answer that was drawn several times for a prompt: ``once``, or ``all`` for
                every draw. Up to scale, ``all`` has the expected gradient of the share of kept answers.
            batch_size: prompts of an update.
            loss_on: see `Sft`: ``answer``, or ``candidates`` if only their answers are possible.
            settings: see `RolloutStage`.

        Raises:
            UserError: no reward reaches the threshold, or the loss is on candidates while rollouts are free.
        """
        super().__init__(*args, **settings)
        highest = self.reward.bounds[1]
        if threshold > highest:
            raise UserError(
                f"expert_iteration.threshold={threshold} exceeds the highest reward, {highest}, so nothing would be "
                "learnt: lower the threshold"
            )
        if loss_on == "candidates" and not self.sampler.constrained:
            raise UserError(
                "expert_iteration.loss_on=candidates with free rollouts, which may answer anything: set "
                "expert_iteration.loss_on=answer, or choose another rollout"
            )
        self.threshold, self.repeats, self.batch_size = threshold, repeats, batch_size
        self.loss_on = loss_on

    def training_step(self, batch: list[Example], batch_idx: int) -> None:
        """One round from its prompts; it logs means over the round."""
        pieces: list[Rewarded] = []
        kept: list[list[Kept]] = []  # per prompt
        chunk = max(1, self.micro_batch_size // self.group_size)
        for start in range(0, len(batch), chunk):
            examples = batch[start : start + chunk]
            prompts = self.policy.prompt_batch([example.prompt for example in examples])
            rollouts, _ = self.draw(examples, prompts, batch_idx, gradients=False)
            pieces.append(self.rewarded(examples, prompts, rollouts))
            kept += self.keep(pieces[-1], self._competing(examples))
        updates = [
            self.update(self.loss_shares(list(chain(*kept[start : start + self.batch_size]))))
            for start in range(0, len(batch), self.batch_size)
        ]
        self.log_step(
            {
                **{name: sum(update[name] for update in updates) / len(updates) for name in updates[0]},
                **self.reward_metrics(batch, pieces),
                "kept/answers": sum(map(len, kept)) / len(batch),
                "kept/prompts": sum(map(bool, kept)) / len(batch),
                # Lightning would count rounds, but rankings of held-out users are logged by updates.
                "step": self.global_step - 1,
            }
        )

    def _competing(self, examples: Sequence[Example]) -> list[AnswerTrie] | None:
        if self.loss_on == "answer":
            return None
        return [candidate_trie(self.answers, example) for example in examples]

    def keep(self, rewarded: Rewarded, competing: Sequence[AnswerTrie] | None = None) -> list[list[Kept]]:
        """The distinct answers to learn for each of B prompts, in the order in which they were drawn.

        Args:
            rewarded: the rollouts.
            competing: for each prompt, the answers that compete in its loss; None: the whole vocabulary.
        """
        rollouts = rewarded.rollouts
        good = (rewarded.rewards.flatten() >= self.threshold) & rollouts.finished.cpu()
        counts = torch.ones(len(good)) if rollouts.weights is None else rollouts.weights.cpu()
        found: list[dict[tuple[int, ...], float]] = [{} for _ in range(len(rewarded.rewards))]
        sources = rollouts.prompt_of.tolist()
        for row in good.nonzero()[:, 0].tolist():
            answer = tuple(rollouts.completions.ids[row][rollouts.completions.mask[row]].tolist())
            own = found[sources[row]]
            own[answer] = own.get(answer, 0.0) + float(counts[row])
        tries: Sequence[AnswerTrie | None] = competing or [None] * len(found)
        prompts = [
            ids[mask].tolist() for ids, mask in zip(rewarded.prompts.ids, rewarded.prompts.mask, strict=True)
        ]
        return [
            [
                Kept(prompt, list(answer), 1.0 if self.repeats == "once" else count, trie)
                for answer, count in own.items()
            ]
            for prompt, own, trie in zip(prompts, found, tries, strict=True)
        ]

    def loss_shares(self, kept: Sequence[Kept]) -> Iterator[Tensor]:
        """SFT's loss on kept answers; nothing if none was kept."""
        tries = [one.competing for one in kept if one.competing is not None]
        return supervised_shares(
            self.policy,
            self.engine,
            [one.prompt for one in kept],
            [one.answer for one in kept],
            self.micro_batch_size,
            weights=[one.weight for one in kept],
            tries=tries or None,
        )


def updates_of(batches: Iterable[Sized], batch_size: int) -> int:
    """The number of optimiser steps in a stage with these rounds of prompts."""
    return sum(math.ceil(len(batch) / batch_size) for batch in batches)
