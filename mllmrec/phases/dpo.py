"""Direct preference optimisation: prefer the true answer to the answers of other listed candidates (DPO, S-DPO)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mllmrec.engine.batches import pad
from mllmrec.phases.base import Learner, OptimizerSettings, PhaseModule
from mllmrec.phases.negatives import target_and_negatives
from mllmrec.prompts.answer_tokens import AnswerTokens
from mllmrec.prompts.examples import Example
from mllmrec.ranks import the_ranks
from mllmrec.rl.preferences import softmax_dpo
from mllmrec.step.together import dealt, micro_batches


class Preferences(NamedTuple):
    """Micro-batches of a step, of similar lengths."""

    prompts: Sequence[list[list[int]]]  # per micro-batch and prompt, token ids
    answers: Sequence[list[list[list[int]]]]  # per micro-batch and prompt, 1 + N answers, the true one first


class Dpo(PhaseModule):
    """One update from B prompts, each with its true answer and N negatives from its candidates.

    All answers of a prompt share one encoding of it. They are scored whole, with the whole vocabulary competing. The
    reference is the policy at the start of the phase.
    """

    name = section = "dpo"
    divides_steps = True

    def __init__(
        self,
        learner: Learner,
        answers: AnswerTokens,
        optimizer: OptimizerSettings,
        updates: int,
        *,
        negatives: int,
        beta: float,
        seed: int = 0,
    ) -> None:
        """Put the parts together.

        Args:
            learner: the policy, with the phase begun, so that its reference is the policy so far.
            answers: tokens of every item's answer.
            optimizer: the optimiser's settings.
            updates: optimiser steps in the whole phase.
            negatives: N; 1 is plain DPO.
            beta: the loss's beta, see `softmax_dpo`.
            seed: the run's seed.
        """
        super().__init__(learner.policy.model, optimizer, updates)
        self.learner, self.policy, self.answers = learner, learner.policy, answers
        self.negatives, self.beta, self.seed = negatives, beta, seed

    def training_step(self, batch: list[Example], batch_idx: int) -> None:
        """One update."""
        whole = self.preferences(batch, batch_idx)
        preferences = Preferences(dealt(whole.prompts), dealt(whole.answers))
        reference = self.reference_logprobs(preferences)
        sums: dict[str, float] = {}
        update = self.update(self.loss_shares(preferences, reference, sums, len(batch)))
        sums = the_ranks().total(sums)
        self.log_step({**update, **{f"rewards/{name}": total / len(batch) for name, total in sums.items()}})

    def in_tokens(self, batch: Sequence[Any], step: int) -> dict[str, Any]:
        """Each prompt with its answers, the preferred one first; the shortest prompts first."""
        preferences, examples = self.preferences(batch, step), self.asking(batch)
        lengths = [len(tokens) for tokens in self.policy.encode_prompts([one.prompt for one in examples])]
        return {
            "samples": [examples[row].sample_id for row in _by_length(lengths)],
            "prompts": [prompt for part in preferences.prompts for prompt in part],
            "answers": [answers for part in preferences.answers for answers in part],
        }

    def asking(self, batch: Sequence[Any]) -> list[Example]:
        """The examples whose prompts are shown."""
        return list(batch)

    def preferences(self, batch: Sequence[Example], step: int) -> Preferences:
        """Draw the negatives; each example's draw depends only on the seed, the step and the example.

        Raises:
            UserError: a prompt has too few candidates.
        """
        prompts = self.policy.encode_prompts([example.prompt for example in batch])
        answers = [
            self.answers.among(example.candidates.tolist(), self._items(example, step)) for example in batch
        ]
        return self.in_parts(prompts, answers)

    def in_parts(self, prompts: list[list[int]], answers: list[list[list[int]]]) -> Preferences:
        """Micro-batches of similar lengths.

        Args:
            prompts: token ids of B prompts.
            answers: of the 1 + N answers of each, the preferred one first.
        """
        order = _by_length([len(prompt) for prompt in prompts])
        parts = [order[part] for part in micro_batches(len(order), self.learner.micro_batch_size)]
        return Preferences(
            [[prompts[row] for row in part] for part in parts],
            [[answers[row] for row in part] for part in parts],
        )

    def _items(self, example: Example, step: int) -> list[int]:
        return target_and_negatives(example, self.negatives, seed=self.seed, stage=self.name, step=step)

    def loss_shares(
        self,
        preferences: Preferences,
        reference: Sequence[Tensor],
        sums: dict[str, float],
        size: int | None = None,
    ) -> Iterator[Tensor]:
        """The mean loss over prompts in micro-batches; their sum does not depend on their size.

        Args:
            preferences: the step's preferences, or this process's micro-batches of them.
            reference: per micro-batch (b, 1 + N), from `reference_logprobs`.
            sums: receives sums over prompts for the log: ``accuracies`` counts prompts in which the true answer has the
                highest reward; ``rejected`` and ``margins`` use a prompt's mean over its negatives.
            size: prompts of the step; None: these are all.
        """
        size = size or sum(map(len, preferences.prompts))
        for prompts, answers, known in zip(*preferences, reference, strict=True):
            preference = softmax_dpo(self._logprobs(self.model, prompts, answers), known, self.beta)
            for name, values in (
                ("accuracies", preference.won),
                ("margins", preference.margins),
                ("chosen", preference.chosen),
                ("rejected", preference.rejected.mean(1)),
            ):
                sums[name] = sums.get(name, 0.0) + float(values.sum())
            yield preference.terms.sum() / size

    @torch.no_grad()
    def reference_logprobs(self, preferences: Preferences) -> list[Tensor]:
        """Per micro-batch, (b, 1 + N) log-probabilities under the policy at the start of the phase."""
        with self.policy.reference() as model:
            return [
                self._logprobs(model, prompts, answers) for prompts, answers in zip(*preferences, strict=True)
            ]

    def _logprobs(
        self, model: Any, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[Sequence[int]]]
    ) -> Tensor:
        padding, device, engine = self.policy.padding_token, self.policy.device, self.learner.engine
        encoded = engine.encode(model, pad(prompts, padding, side="left").to(device))
        completions = pad([answer for options in answers for answer in options], padding, side="right")
        prompt_of = torch.arange(len(prompts), device=device).repeat_interleave(1 + self.negatives)
        scores = engine.score(model, encoded, completions.to(device), prompt_of, entropy=False)
        return scores.logprobs.sum(1).view(len(prompts), -1)


def _by_length(lengths: Sequence[int]) -> list[int]:
    """Positions, the shortest first."""
    return sorted(range(len(lengths)), key=lengths.__getitem__)
