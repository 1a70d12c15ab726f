"""Supervised fine-tuning on the true next item's answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from mllmrec.engine.base import ChoiceSets, Engine
from mllmrec.engine.batches import TokenBatch, pad
from mllmrec.models.policy import Policy
from mllmrec.prompts.answer_tokens import AnswerTokens
from mllmrec.prompts.examples import Example
from mllmrec.prompts.trie import AnswerTrie, choice_sets
from mllmrec.stages.base import OptimizerSettings, Stage


class Sft(Stage):
    """Minimises the mean negative log-probability of the true answer's tokens.

    ``loss_on="answer"``: end token included, the whole vocabulary competing. ``"candidates"``: only the
    candidates' answers compete, at the tokens where they differ, which is what constrained rollouts and rankings
    renormalise over. ``"all"``: the prompt's tokens too, as the released code does (its fault 20).
    """

    name = "sft"

    def __init__(
        self,
        policy: Policy,
        answers: AnswerTokens,
        optimizer: OptimizerSettings,
        updates: int,
        micro_batch_size: int,
        engine: Engine,
        loss_on: str = "answer",
    ) -> None:
        super().__init__(policy.model, optimizer, updates)
        self.policy, self.answers = policy, answers
        self.micro_batch_size, self.engine, self.loss_on = micro_batch_size, engine, loss_on

    def training_step(self, batch: list[Example], batch_idx: int) -> None:
        """One update."""
        self.log_step(self.update(self.loss_shares(batch)))

    def loss_shares(self, batch: Sequence[Example]) -> Iterator[Tensor]:
        """The loss of the batch in micro-batches whose sum does not depend on their size."""
        encoded = self.policy.encode_prompts([example.prompt for example in batch])
        # Micro-batches of similar lengths hold less padding; the sum over them does not depend on the order.
        pairs = sorted(zip(encoded, batch, strict=True), key=lambda pair: len(pair[0]))
        prompts, batch = [prompt for prompt, _ in pairs], [example for _, example in pairs]
        answers = self._answers(batch)
        if self.loss_on == "all":
            # Everything after the first token counts as its completion.
            answers = [prompt[1:] + answer for prompt, answer in zip(prompts, answers, strict=True)]
            prompts = [prompt[:1] for prompt in prompts]
        completions = pad(answers, self.policy.padding_token, side="right").to(self.device)
        choices: ChoiceSets | None = None
        scored = completions.mask
        if self.loss_on == "candidates":
            tries = [
                AnswerTrie([self.answers.of(item) for item in example.candidates.tolist()])
                for example in batch
            ]
            choices, decisions = choice_sets(tries, answers)
            choices, scored = choices.to(self.device), decisions.to(self.device)
        tokens = int(scored.sum())
        for start in range(0, len(batch), self.micro_batch_size):
            part = slice(start, start + self.micro_batch_size)
            if not scored[part].any():
                continue
            encoded = self.engine.encode(
                self.model, pad(prompts[part], self.policy.padding_token, side="left").to(self.device)
            )
            scores = self.engine.score(
                self.model,
                encoded,
                TokenBatch(completions.ids[part], completions.mask[part]),
                torch.arange(len(prompts[part]), device=self.device),
                scored=scored[part],
                choices=None if choices is None else choices.rows(part),
                entropy=False,
            )
            yield -scores.logprobs.sum() / tokens

    def _answers(self, batch: Sequence[Example]) -> list[list[int]]:
        """Tokens of the answers, each with its reasoning before it where that is to be learnt."""
        answers = [self.answers.of(example.target) for example in batch]
        learnt = [place for place, example in enumerate(batch) if example.reasoned_answer]
        texts = [batch[place].reasoned_answer for place in learnt]
        for place, tokens in zip(learnt, self.policy.encode_answers(texts) if texts else [], strict=True):
            answers[place] = [*tokens, self.policy.end_token]
        return answers
