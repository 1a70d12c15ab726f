"""Expert iteration: the policy answers, answers that are good enough are kept, and SFT learns them; again and again.

Rejection sampling and fine-tuning as in ReST-EM (Singh et al. 2024, arXiv 2312.06585), except that every round goes on
from the policy of the last one, as in RAFT (Dong et al. 2023, arXiv 2304.06767), where ReST-EM trains the base model anew.
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
    """An answer that is to be learnt."""

    prompt: list[int]
    answer: list[int]
    weight: float
    competing: AnswerTrie | None = None  # the answers that it is learnt against; None: the whole vocabulary


class ExpertIteration(RolloutStage):
    """One round: answers of the round's prompts by the policy as it is, then updates on those that are kept."""

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
            args: as of `RolloutStage`.
            threshold: the least reward of an answer that is kept; it must have ended by itself, too.
            repeats: how an answer counts that a prompt was given several times: ``once``, or ``all`` for as often
                as it was drawn, whose expected gradient is that of the share of kept answers, up to its scale.
            batch_size: prompts of an update.
            loss_on: as of `Sft`: ``answer``, or ``candidates`` where they are all that can be said.
            settings: as of `RolloutStage`.

        Raises:
            UserError: no reward reaches the threshold, or the loss is on candidates and answers are free.
        """
        super().__init__(*args, **settings)
        highest = self.reward.bounds[1]
        if threshold > highest:
            raise UserError(
                f"expert_iteration.threshold={threshold} exceeds the highest reward, {highest}: nothing would be "
                "learnt; lower it"
            )
        if loss_on == "candidates" and not self.sampler.constrained:
            raise UserError(
                "expert_iteration.loss_on=candidates with free rollouts, which may say anything: set "
                "expert_iteration.loss_on=answer, or choose another rollout"
            )
        self.threshold, self.repeats, self.batch_size = threshold, repeats, batch_size
        self.loss_on = loss_on

    def training_step(self, batch: list[Example], batch_idx: int) -> None:
        """One round from its prompts; what is logged are means over it."""
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
                # Lightning would count rounds, where rankings of held-out users are logged by updates.
                "step": self.global_step - 1,
            }
        )

    def _competing(self, examples: Sequence[Example]) -> list[AnswerTrie] | None:
        if self.loss_on == "answer":
            return None
        return [candidate_trie(self.answers, example) for example in examples]

    def keep(self, rewarded: Rewarded, competing: Sequence[AnswerTrie] | None = None) -> list[list[Kept]]:
        """The different answers of each of B prompts that are to be learnt, in the order in which they were drawn.

        Args:
            rewarded: the rollouts.
            competing: of each prompt, the answers that its own are learnt against; None: the whole vocabulary.
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
        """SFT's loss on kept answers; nothing where none was kept."""
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
    """Optimiser steps of a stage whose rounds have these prompts."""
    return sum(math.ceil(len(batch) / batch_size) for batch in batches)
