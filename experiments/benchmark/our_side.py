"""The package's own GRPO step, without a trainer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from transformers import get_scheduler

from benchmark.measuring import StepClock, device
from benchmark.models import (
    LINEAR_LAYERS,
    RandomCatalogue,
    random_model,
    random_prompts,
    random_tokenizer,
    reward_of,
)
from mllmrec.engine.base import Engine
from mllmrec.engine.plain import Plain
from mllmrec.engine.shared_prefix import SharedPrefix
from mllmrec.models.policy import Policy
from mllmrec.prompts.answer_tokens import AnswerTokens
from mllmrec.prompts.builder import PromptBuilder
from mllmrec.prompts.examples import Example
from mllmrec.prompts.trie import AnswerTrie, choice_sets
from mllmrec.rewards.base import Question, TextReward
from mllmrec.rl.advantages import GroupRelative
from mllmrec.rl.batch import RolloutBatch
from mllmrec.rl.losses import ClippedRatio
from mllmrec.rl.regularizers import KlToReference
from mllmrec.rollout.base import Judge, PlainRollout, Turn, WrappedRollout
from mllmrec.rollout.base import Speaker as RolloutSpeaker
from mllmrec.rollout.constrained import Constrained
from mllmrec.rollout.enumerated import Enumerated
from mllmrec.rollout.free import Free
from mllmrec.step.collector import Collector
from mllmrec.step.metrics import rollout_metrics
from mllmrec.step.names import Names
from mllmrec.step.policy_gradient import PolicyGradient, StepSettings
from mllmrec.step.reference import Frozen
from mllmrec.step.speaker import Speaker
from mllmrec.step.updates import Updates

RANK, TEMPERATURE, TOP_P, LEARNING_RATE = 16, 0.9, 0.9, 1e-4


class TokenHash(TextReward):
    """Pays `reward_of` the text."""

    parts = ()

    @property
    def bounds(self) -> tuple[float, float]:
        """The lowest and the highest possible total."""
        return 0.0, 1.0

    def judge(self, completion: str, question: Question) -> dict[str, float]:
        """Only the total."""
        return {"reward": reward_of(completion)}


class TimedRollout(WrappedRollout):
    """The draw inside it, timed."""

    def __init__(self, inner: PlainRollout, clock: StepClock) -> None:
        super().__init__(inner)
        self.clock = clock

    def __call__(
        self, examples: Sequence[Example], speaker: RolloutSpeaker, judge: Judge, turn: Turn
    ) -> RolloutBatch:
        """Timed."""
        with self.clock.part("rollout"):
            return self.inner(examples, speaker, judge, turn)


class TimedReference(Frozen):
    """The policy at the start, timed while it scores."""

    def __init__(self, clock: StepClock) -> None:
        self.clock = clock

    @contextmanager
    def model(self, policy: Policy) -> Iterator[Any]:
        """Timed until the block ends."""
        with self.clock.part("reference"), super().model(policy) as model:
            yield model


class OurSide:
    """A policy, its GRPO step with the shared-prefix engine, its optimiser, and the examples of every step."""

    def __init__(self, settings: Mapping[str, Any], steps: int) -> None:
        """Build everything for ``steps`` steps in all."""
        self.settings = settings
        self.clock = StepClock()
        size, candidates = settings["size"], settings["candidates"]
        # An answer's tokens include the end token.
        self.catalogue = RandomCatalogue(size, candidates, settings["completion_len"] - 1)
        self.policy = Policy(
            random_model(size, settings["dtype"], device()),
            random_tokenizer(size),
            lora={"rank": RANK, "alpha": 2 * RANK, "dropout": 0.0, "target_modules": LINEAR_LAYERS},
        )
        self.policy.begin_phase("grpo")
        _fill_adapters(self.policy.model)
        self.policy.model.to(device()).train()
        self.answers = AnswerTokens(
            cast(PromptBuilder, self.catalogue), self.policy.encode_answers, self.policy.end_token
        )
        rows = candidates if settings["rollout"] == "enumerate" else settings["group"]
        self.training = self.step_with(SharedPrefix(), settings["prompts"] * rows)
        self.update = _updates(self.policy.model, steps)
        prompts = random_prompts(size, settings["prompts"] * steps, settings["prompt_len"])
        examples = [
            Example(str(row), str(row), prompt, 0, np.arange(candidates), 0, False)
            for row, prompt in enumerate(prompts)
        ]
        self.batches = [
            examples[start : start + settings["prompts"]]
            for start in range(0, len(examples), settings["prompts"])
        ]

    def step_with(self, engine: Engine, micro_batch_size: int) -> PolicyGradient:
        """The step of this side by another engine, with so many completions at once."""
        draw, beta = _rollout(self.settings), self.settings["beta"]
        speaker = Speaker(
            self.policy,
            self.answers,
            engine,
            draw,
            Names(self.catalogue.ids, self.catalogue.titles),
            micro_batch_size=micro_batch_size,
        )
        reference = TimedReference(self.clock) if beta > 0 else None
        return PolicyGradient(
            Collector(speaker, TimedRollout(draw, self.clock), TokenHash(), reference=reference),
            GroupRelative(),
            ClippedRatio(),
            StepSettings(self.settings["group"], micro_batch_size, aggregation="sequence_mean"),
            [KlToReference(beta)] if beta > 0 else [],
        )

    def step(self, index: int) -> None:
        """One whole step, timed, with the numbers that a run logs."""
        self.clock.begin()
        with _precision(self.settings):
            rollouts = self.training.collect(self.batches[index], index)
            rollout_metrics(rollouts, constrained=self.settings["rollout"] != "free")
            for _ in self.training.updates(rollouts, self.update):
                pass
        self.clock.end()

    def decided_tokens(self) -> float:
        """D: mean tokens of an answer up to the last one that its beginning leaves open."""
        answers = [self.answers.of(item) for item in range(self.settings["candidates"])]
        _, open_places = choice_sets([AnswerTrie(answers)] * len(answers), answers)
        lengths = torch.arange(1, open_places.shape[1] + 1) * open_places
        return float(lengths.amax(1).double().mean())

    def gradient_error(self, index: int) -> float:
        """The `largest_error` of the gradients against `Plain`, with the same rollouts, for the update of a step."""
        with _precision(self.settings):
            rollouts = self.training.collect(self.batches[index], index)
            ours = self.gradients(self.training, rollouts)
            plain = self.gradients(self.step_with(Plain(), 1), replace(rollouts, known=None))
        return largest_error(ours, plain)

    def gradients(self, step: PolicyGradient, rollouts: RolloutBatch) -> list[Tensor]:
        """Of all trained weights, in a step's update from some rollouts."""
        self.policy.model.zero_grad(set_to_none=True)
        for _ in step.updates(rollouts, _backward):
            pass
        return [weight.grad for weight in self.policy.model.parameters() if weight.grad is not None]


def largest_error(found: Iterable[Tensor], expected: Iterable[Tensor]) -> float:
    """The maximum over weights of ``|g - expected| / |expected|``, in Euclidean norms."""
    return max(float((own - plain).norm() / plain.norm()) for own, plain in zip(found, expected, strict=True))


def _updates(model: torch.nn.Module, steps: int) -> Updates:
    """AdamW with a rate that falls to 0 over all steps."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=LEARNING_RATE, weight_decay=0.0, fused=True)
    return Updates(optimizer, get_scheduler("linear", optimizer, 0, steps), name="grpo")


def _backward(shares: Iterable[Tensor]) -> dict[str, float]:
    """An update that leaves the weights alone."""
    for share in shares:
        share.backward()
    return {}


def _fill_adapters(model: torch.nn.Module) -> None:
    """Give the adapters' B weights like those of a trained policy: if B were zero, A would have no gradient."""
    generator = torch.Generator().manual_seed(3)
    for name, weight in model.named_parameters():
        if ".lora_B." in name:
            weight.data.copy_(0.02 * torch.randn(weight.shape, generator=generator))


def _precision(settings: Mapping[str, Any]) -> Any:
    """Autocast as Lightning's ``bf16-mixed`` and TRL's ``bf16`` do it."""
    if settings["dtype"] == "float32":
        return nullcontext()
    return torch.autocast(device().type, getattr(torch, settings["dtype"]))


def _rollout(settings: Mapping[str, Any]) -> PlainRollout:
    if settings["rollout"] == "free":
        return Free(TEMPERATURE, TOP_P, settings["completion_len"])
    return (Constrained if settings["rollout"] == "constrained" else Enumerated)(TEMPERATURE)
