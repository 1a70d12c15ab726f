"""One step of the package's own GRPO stage, driven without a trainer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

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
from mllmrec.rewards.base import Question, Reward
from mllmrec.rl.advantages import GroupRelative
from mllmrec.rl.losses import ClippedRatio
from mllmrec.rollout.base import Rollouts, Sampler
from mllmrec.rollout.constrained import Constrained
from mllmrec.rollout.enumerated import Enumerated
from mllmrec.rollout.free import Free
from mllmrec.stages.base import OptimizerSettings
from mllmrec.stages.grpo import Grpo, Judged

RANK, TEMPERATURE, TOP_P, LEARNING_RATE = 16, 0.9, 0.9, 1e-4


class TokenHash(Reward):
    """Pays `reward_of` the text."""

    parts = ()

    @property
    def bounds(self) -> tuple[float, float]:
        """The lowest and the highest possible total."""
        return 0.0, 1.0

    def __call__(self, completion: str, question: Question) -> dict[str, float]:
        """Only the total."""
        return {"reward": reward_of(completion)}


class TimedGrpo(Grpo):
    """The unchanged stage, with Lightning's handles replaced and rollout and reference timed."""

    def __init__(self, clock: StepClock, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.clock = clock
        configured = self.configure_optimizers()
        self._handles = (configured["optimizer"], configured["lr_scheduler"])

    def optimizers(self, use_pl_optimizer: bool = True) -> Any:
        """AdamW."""
        return self._handles[0]

    def lr_schedulers(self) -> Any:
        """Its schedule."""
        return self._handles[1]

    def manual_backward(self, loss: Tensor, *arguments: Any, **settings: Any) -> None:
        """As without a trainer."""
        loss.backward()

    def log_step(self, metrics: Mapping[str, float]) -> None:
        """Keep nothing: the numbers are on the host already, and moving them there is the cost of logging."""

    def roll_out(self, batch: Sequence[Example], prompts: Any, step: int) -> tuple[Rollouts, Any]:
        """Timed."""
        with self.clock.part("rollout"):
            return super().roll_out(batch, prompts, step)

    def reference_logprobs(self, judged: Judged) -> Tensor:
        """Timed."""
        with self.clock.part("reference"):
            return super().reference_logprobs(judged)


class OurSide:
    """A policy, its GRPO stage with the shared-prefix engine, and the examples of every step."""

    def __init__(self, settings: Mapping[str, Any], steps: int) -> None:
        """Build everything for ``steps`` steps in all."""
        self.settings = settings
        self.clock = StepClock()
        size, candidates = settings["size"], settings["candidates"]
        # An answer's tokens include the end token.
        catalogue = RandomCatalogue(size, candidates, settings["completion_len"] - 1)
        self.policy = Policy(
            random_model(size, settings["dtype"], device()),
            random_tokenizer(size),
            lora={"rank": RANK, "alpha": 2 * RANK, "dropout": 0.0, "target_modules": LINEAR_LAYERS},
        )
        self.policy.begin_stage("grpo")
        _fill_adapters(self.policy.model)
        answers = AnswerTokens(
            cast(PromptBuilder, catalogue), self.policy.encode_answers, self.policy.end_token
        )
        rows = candidates if settings["rollout"] == "enumerate" else settings["group"]
        self.stage = TimedGrpo(
            self.clock,
            self.policy,
            answers,
            OptimizerSettings(LEARNING_RATE),
            steps,
            engine=SharedPrefix(),
            sampler=_sampler(settings),
            reward=TokenHash(),
            advantage=GroupRelative(),
            policy_loss=ClippedRatio(),
            group_size=settings["group"],
            micro_batch_size=settings["prompts"] * rows,
            beta=settings["beta"],
            aggregation="sequence_mean",
            titles=catalogue.titles,
            item_ids=catalogue.ids,
        ).to(device())
        prompts = random_prompts(size, settings["prompts"] * steps, settings["prompt_len"])
        examples = [
            Example(str(row), str(row), prompt, 0, np.arange(candidates), 0, False)
            for row, prompt in enumerate(prompts)
        ]
        self.batches = [
            examples[start : start + settings["prompts"]]
            for start in range(0, len(examples), settings["prompts"])
        ]

    def step(self, index: int) -> None:
        """One whole step, timed."""
        self.clock.begin()
        with _precision(self.settings):
            self.stage.training_step(self.batches[index], index)
        self.clock.end()

    def decided_tokens(self) -> float:
        """D: mean tokens of an answer up to the last one that its beginning leaves open."""
        answers = [self.stage.answers.of(item) for item in range(self.settings["candidates"])]
        _, open_places = choice_sets([AnswerTrie(answers)] * len(answers), answers)
        lengths = torch.arange(1, open_places.shape[1] + 1) * open_places
        return float(lengths.amax(1).double().mean())

    def gradient_error(self, index: int) -> float:
        """The largest relative error of any weight's gradient against `Plain`, with the same rollouts.

        It is the maximum over weights of ``|g - g_plain| / |g_plain|`` in Euclidean norms, for the update of a step.
        """
        stage, batch = self.stage, self.batches[index]
        with _precision(self.settings):
            prompts = self.policy.prompt_batch([example.prompt for example in batch])
            rollouts, encoded = stage.roll_out(batch, prompts, index)
            judged = stage.judge(batch, prompts, rollouts)
            ours = self._gradients(judged, stage.engine, stage.micro_batch_size, encoded)
            plain = self._gradients(judged, Plain(), 1, None)
        errors = [
            (found - expected).norm() / expected.norm() for found, expected in zip(ours, plain, strict=True)
        ]
        return float(torch.stack(errors).max())

    def _gradients(self, judged: Judged, engine: Engine, micro_batch: int, encoded: Any) -> list[Tensor]:
        stage = self.stage
        kept = stage.engine, stage.micro_batch_size
        stage.engine, stage.micro_batch_size = engine, micro_batch
        reference = stage.reference_logprobs(judged) if stage.beta > 0 else None
        stage.zero_grad(set_to_none=True)
        _backward(stage.loss_shares(judged, None, reference, {}, encoded=encoded))
        stage.engine, stage.micro_batch_size = kept
        return [weight.grad for weight in stage.parameters() if weight.grad is not None]


def _backward(shares: Iterable[Tensor]) -> None:
    for share in shares:
        share.backward()


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


def _sampler(settings: Mapping[str, Any]) -> Sampler:
    if settings["rollout"] == "free":
        return Free(TEMPERATURE, TOP_P, settings["completion_len"])
    return (Constrained if settings["rollout"] == "constrained" else Enumerated)(TEMPERATURE)
