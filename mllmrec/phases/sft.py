"""Supervised fine-tuning on the answer that names the true next item."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mllmrec.engine.base import ChoiceSets
from mllmrec.engine.batches import TokenBatch, pad
from mllmrec.models.completions import learnt_tokens
from mllmrec.phases.base import Learner, OptimizerSettings, PhaseModule
from mllmrec.prompts.answer_tokens import AnswerTokens
from mllmrec.prompts.examples import Example
from mllmrec.prompts.markup import without_item_marks
from mllmrec.prompts.trie import AnswerTrie, choice_sets_behind
from mllmrec.randomness import numpy_generator
from mllmrec.ranks import the_ranks
from mllmrec.step.together import dealt, micro_batches


class Sft(PhaseModule):
    """Minimises the mean negative log-probability of the true answer's tokens.

    ``loss_on="answer"`` includes the end token and lets the whole vocabulary compete. With ``"candidates"`` only the
    candidates' answers compete, at the tokens where they differ; constrained rollouts and rankings renormalise over the
    same set; reasoning before the answer is learnt against the whole vocabulary. ``"all"`` also learns the prompt's tokens, as the released code does (its fault 20).

    A token of the reasoning before an answer counts ``reasoning_weight`` times, one of the answer once.

    With ``curriculum="linear"`` a prompt shows item tokens with a probability that rises from 0 to 1 over the phase, and is
    plain text otherwise (LLaRA, Liao et al. 2024). With ``"none"`` every prompt that has item tokens shows them.
    """

    name = section = "sft"
    divides_steps = True

    def __init__(
        self,
        learner: Learner,
        answers: AnswerTokens,
        optimizer: OptimizerSettings,
        updates: int,
        loss_on: str = "answer",
        curriculum: str = "none",
        seed: int = 0,
        reasoning_weight: float = 1.0,
    ) -> None:
        super().__init__(learner.policy.model, optimizer, updates)
        self.learner, self.policy, self.answers = learner, learner.policy, answers
        self.loss_on, self.curriculum, self.seed = loss_on, curriculum, seed
        self.reasoning_weight = reasoning_weight

    def training_step(self, batch: list[Example], batch_idx: int) -> None:
        """One update."""
        shown = self.shown(batch, batch_idx)
        self.log_step(self.update(self.loss_shares(shown)))

    def in_tokens(self, batch: Sequence[Example], step: int) -> dict[str, Any]:
        """Each prompt with the answer to learn."""
        lessons = [lesson for example in self.shown(batch, step) for lesson in example.lessons()]
        return {
            "samples": [one.sample_id for one in lessons],
            "prompts": self.policy.encode_prompts([one.prompt for one in lessons]),
            "answers": learnt_tokens(self.policy, self.answers, lessons)[0],
        }

    def shown(self, batch: Sequence[Example], step: int) -> list[Example]:
        """The batch of a step (counted from 0) as the curriculum shows it."""
        if self.curriculum == "none":
            return list(batch)
        draws = numpy_generator(self.seed, "item-token curriculum", step).random(len(batch))
        with_tokens: np.ndarray = draws < hybrid_share(step, self.updates)
        return [
            example if hybrid else replace(example, prompt=without_item_marks(example.prompt))
            for example, hybrid in zip(batch, with_tokens, strict=True)
        ]

    def loss_shares(self, batch: Sequence[Example]) -> Iterator[Tensor]:
        """The loss of the batch in micro-batches; their sum does not depend on their size."""
        batch = [lesson for example in batch for lesson in example.lessons()]
        prompts = self.policy.encode_prompts([example.prompt for example in batch])
        answers, begins = learnt_tokens(self.policy, self.answers, batch)
        tries: list[AnswerTrie] | None = None
        if self.loss_on == "all":
            # Everything after the prompt's first token counts as the completion, and as an answer.
            answers = [prompt[1:] + answer for prompt, answer in zip(prompts, answers, strict=True)]
            prompts, begins = [prompt[:1] for prompt in prompts], [0] * len(batch)
        elif self.loss_on == "candidates":
            tries = [candidate_trie(self.answers, example) for example in batch]
        return supervised_shares(
            self.learner, prompts, answers, tries=tries, begins=begins, reasoning_weight=self.reasoning_weight
        )


class SftMore(Sft):
    """SFT continued: the control for a phase after SFT. It sees the same prompts and learns the true answers."""

    name = section = "sft_more"


def hybrid_share(step: int, steps: int) -> float:
    """The linear curriculum's share of prompts with item tokens: 0 at the first step, 1 at the last (or only) one."""
    return step / (steps - 1) if steps > 1 else 1.0


def candidate_trie(answers: AnswerTokens, example: Example) -> AnswerTrie:
    """The answers of an example's candidates."""
    return AnswerTrie(answers.among(example.candidates.tolist()))


def supervised_shares(
    learner: Learner,
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]],
    *,
    weights: Sequence[float] | None = None,
    tries: Sequence[AnswerTrie] | None = None,
    begins: Sequence[int] | None = None,
    reasoning_weight: float = 1.0,
    sums: dict[str, float] | None = None,
) -> Iterator[Tensor]:
    """The mean negative log-probability of the answers' tokens, in micro-batches; their sum does not depend on their size.

    Of several processes each has its own micro-batches, and the sum is over all of them.

    Args:
        learner: the policy that learns; its micro-batch size counts rows.
        prompts: token ids of each row's prompt.
        answers: token ids of each row's answer.
        weights: how often each row counts; None for once.
        tries: for each row, the only answers that compete; None: the whole vocabulary competes.
        begins: where each row's answer begins, behind its reasoning; None: at once.
        reasoning_weight: how often a token of the reasoning counts beside one of the answer.
        sums: receives ``entropy``, the sum over counted tokens in nats, and ``tokens``, their count.
    """
    policy = learner.policy
    # Micro-batches of similar lengths need less padding; the sum over them does not depend on the order.
    order = sorted(range(len(prompts)), key=lambda row: len(prompts[row]) + len(answers[row]))
    prompts, answers = [prompts[row] for row in order], [answers[row] for row in order]
    completions = pad(answers, policy.padding_token, side="right").to(policy.device)
    starts = [0] * len(answers) if begins is None else [begins[row] for row in order]
    begin = torch.tensor(starts, device=policy.device)[:, None]
    reasons = completions.mask & (torch.arange(completions.ids.shape[1], device=policy.device) < begin)
    choices: ChoiceSets | None = None
    scored = completions.mask
    if tries is not None:
        said = [answer[start:] for answer, start in zip(answers, starts, strict=True)]
        choices, decisions = choice_sets_behind(
            [tries[row] for row in order], said, starts, completions.ids.shape[1]
        )
        choices, scored = choices.to(policy.device), decisions.to(policy.device) | reasons
    counted = scored.float()
    if reasoning_weight != 1:
        counted = torch.where(reasons, counted * reasoning_weight, counted)
    if weights is not None:
        counted = counted * torch.tensor([weights[row] for row in order], device=policy.device)[:, None]
    tokens = float(counted.sum())
    own: dict[str, float] = {}
    for part in dealt(micro_batches(len(prompts), learner.micro_batch_size)):
        if not scored[part].any():
            continue
        encoded = learner.engine.encode(
            policy.model, pad(prompts[part], policy.padding_token, side="left").to(policy.device)
        )
        scores = learner.engine.score(
            policy.model,
            encoded,
            TokenBatch(completions.ids[part], completions.mask[part]),
            torch.arange(len(prompts[part]), device=policy.device),
            scored=scored[part],
            choices=None if choices is None else choices.rows(part),
            entropy=sums is not None,
        )
        if sums is not None:
            own["entropy"] = own.get("entropy", 0.0) + float((scores.entropy * counted[part]).sum())
            own["tokens"] = own.get("tokens", 0.0) + float(counted[part].sum())
        yield -(scores.logprobs * counted[part]).sum() / tokens
    if sums is not None:
        for name, value in the_ranks().total(own).items():
            sums[name] = sums.get(name, 0.0) + value
