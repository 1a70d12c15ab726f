"""Supervised fine-tuning on yes-or-no questions: Yes for the true next item, No for other items (TALLRec)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor

from mllmrec.phases.base import Learner, OptimizerSettings, PhaseModule
from mllmrec.phases.negatives import target_and_negatives
from mllmrec.phases.sft import supervised_shares
from mllmrec.prompts.examples import Example
from mllmrec.prompts.questions import Questions


class Pointwise(PhaseModule):
    """Minimises the mean negative log-probability of the answers' tokens, end token included."""

    name = section = "pointwise"
    divides_steps = True

    def __init__(
        self,
        learner: Learner,
        questions: Questions,
        optimizer: OptimizerSettings,
        updates: int,
        *,
        negatives: int,
        seed: int = 0,
    ) -> None:
        """Put the parts together.

        Args:
            learner: the policy; its micro-batch size counts questions.
            questions: the questions to ask.
            optimizer: the optimiser's settings.
            updates: optimiser steps in the whole phase.
            negatives: questions with answer No for each question with answer Yes.
            seed: the run's seed.
        """
        super().__init__(learner.policy.model, optimizer, updates)
        self.learner, self.policy, self.questions = learner, learner.policy, questions
        self.negatives, self.seed = negatives, seed

    def training_step(self, batch: list[Example], batch_idx: int) -> None:
        """One update."""
        self.log_step(self.update(self.loss_shares(batch, batch_idx)))

    def loss_shares(self, batch: Sequence[Example], step: int) -> Iterator[Tensor]:
        """The loss of the batch in micro-batches; their sum does not depend on their size."""
        asked, answers = self.asked(batch, step)
        return supervised_shares(self.learner, asked, answers)

    def in_tokens(self, batch: Sequence[Example], step: int) -> dict[str, Any]:
        """Each question with its answer; the questions about a sample stand together."""
        asked, answers = self.asked(batch, step)
        return {"samples": [one.sample_id for one in batch], "prompts": asked, "answers": answers}

    def asked(self, batch: Sequence[Example], step: int) -> tuple[list[list[int]], list[list[int]]]:
        """The tokens of the questions about a batch, and those of their answers."""
        asked, answers = [], []
        yes, no = self.policy.encode_answers([self.questions.positive, self.questions.negative])
        for example in batch:
            items = target_and_negatives(example, self.negatives, seed=self.seed, stage=self.name, step=step)
            history = example.history.tolist()
            asked += [self.questions.prompt(history, item) for item in items]
            answers += [[*(yes if item == example.target else no), self.policy.end_token] for item in items]
        return self.policy.encode_prompts(asked), answers
