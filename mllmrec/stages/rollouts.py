"""The common parts of stages that learn from rollouts: completions of prompts, their rewards, and their logged metrics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mllmrec.engine.base import Engine
from mllmrec.engine.batches import TokenBatch
from mllmrec.errors import UserError
from mllmrec.models.policy import Policy
from mllmrec.prompts.answer_tokens import AnswerTokens
from mllmrec.prompts.answers import parse_answer
from mllmrec.prompts.examples import Example
from mllmrec.randomness import torch_generator
from mllmrec.rewards.base import Question, Reward
from mllmrec.rl.advantages import weighted_mean, weighted_std, zero_variance
from mllmrec.rollout.base import Rollouts, Sampler
from mllmrec.rollout.draw import NoProbabilities
from mllmrec.stages.base import OptimizerSettings, Stage


@dataclass(frozen=True)
class Rewarded:
    """Rollouts with their rewards; R = B * G rows."""

    prompts: TokenBatch  # (B, P)
    rollouts: Rollouts
    texts: list[str]
    rewards: Tensor  # (B, G)
    parts: list[dict[str, float]]  # R dicts of reward parts


class RolloutStage(Stage):
    """A stage that trains on the policy's own answers to the prompts."""

    def __init__(
        self,
        policy: Policy,
        answers: AnswerTokens,
        optimizer: OptimizerSettings,
        updates: int,
        *,
        engine: Engine,
        sampler: Sampler,
        reward: Reward,
        group_size: int,
        micro_batch_size: int,
        seed: int = 0,
        titles: Sequence[str] = (),
        item_ids: Sequence[str] = (),
    ) -> None:
        """Put the parts together.

        Args:
            policy: the policy, with the stage begun.
            answers: tokens of every item's answer.
            optimizer: the optimiser's settings.
            updates: optimiser steps in the whole stage.
            engine: runs the model.
            sampler: draws completions.
            reward: judges completions.
            group_size: G.
            micro_batch_size: completions through the model at once.
            seed: the run's seed.
            titles: (I,) as the prompts show them.
            item_ids: (I,).
        """
        super().__init__(policy.model, optimizer, updates)
        self.policy, self.answers = policy, answers
        self.engine, self.sampler, self.reward = engine, sampler, reward
        self.group_size, self.micro_batch_size, self.seed = group_size, micro_batch_size, seed
        self.titles, self.item_ids = titles, item_ids
        self.generated_tokens = 0

    def draw(
        self, batch: Sequence[Example], prompts: TokenBatch, step: int, *, gradients: bool
    ) -> tuple[Rollouts, Any]:
        """Completions of each example, and the encoded prompts, both with their graph if ``gradients``.

        The draws of an example depend only on the seed, the step and the example.

        Raises:
            UserError: the policy's probabilities are not numbers.
        """
        answers: list[list[list[int]]] = []
        if self.sampler.constrained:
            answers = [[self.answers.of(item) for item in example.candidates.tolist()] for example in batch]
        training = self.model.training
        self.model.train(training and gradients)
        try:
            with torch.set_grad_enabled(gradients):
                encoded = self.engine.encode(self.model, prompts)
                rollouts = self.sampler(
                    self.engine,
                    self.model,
                    encoded,
                    self.group_size,
                    [torch_generator(self.seed, "rollouts", step, example.sample_id) for example in batch],
                    answers,
                    self.policy.end_token,
                )
        except NoProbabilities as error:
            raise UserError(
                f"stage {self.name} diverged at step {step}: {error}; lower {self.name}.learning_rate (now "
                f"{self.settings.learning_rate})"
            ) from error
        finally:
            self.model.train(training)
        if rollouts.weights is None:
            self.generated_tokens += int(rollouts.completions.mask.sum())
        return rollouts, encoded

    def rewarded(self, batch: Sequence[Example], prompts: TokenBatch, rollouts: Rollouts) -> Rewarded:
        """Texts and rewards of rollouts."""
        texts = self.policy.decode(rollouts.completions)
        questions = [
            Question(
                self.item_ids[example.target],
                {self.item_ids[item]: self.titles[item] for item in example.candidates.tolist()},
            )
            for example in batch
        ]
        sources = rollouts.prompt_of.tolist()
        parts = [self.reward(text, questions[source]) for text, source in zip(texts, sources, strict=True)]
        rewards = torch.tensor([part["reward"] for part in parts]).view(len(batch), -1)
        return Rewarded(prompts, rollouts, texts, rewards, parts)

    def reward_metrics(self, batch: Sequence[Example], pieces: Sequence[Rewarded]) -> dict[str, float]:
        """The metrics to log about the rollouts of a batch, under TRL's names where TRL has one.

        Args:
            batch: B examples.
            pieces: their rollouts, in the pieces in which they were drawn.
        """
        rewards = torch.cat([piece.rewards for piece in pieces])
        given = [piece.rollouts.weights for piece in pieces]
        known = [one.cpu() for one in given if one is not None]
        weights = torch.cat(known).view(rewards.shape) if known else None
        lengths = torch.cat([piece.rollouts.completions.mask.sum(1) for piece in pieces]).float()
        finished = torch.cat([piece.rollouts.finished for piece in pieces]).float()
        parts = [part for piece in pieces for part in piece.parts]
        metrics: dict[str, Any] = {
            "reward": weighted_mean(rewards, weights).mean(),
            "reward_std": weighted_std(rewards, weights).mean(),
            "frac_reward_zero_std": zero_variance(rewards).float().mean(),
            "completions/mean_length": lengths.mean(),
            "completions/min_length": lengths.min(),
            "completions/max_length": lengths.max(),
            "completions/clipped_ratio": 1 - finished.mean(),
            "num_tokens": float(self.generated_tokens),
        }
        for name in self.reward.parts:
            values = torch.tensor([part[name] for part in parts]).view(rewards.shape)
            metrics[f"rewards/{name}/mean"] = weighted_mean(values, weights).mean()
        if not self.sampler.constrained:
            metrics |= self._invalid(batch, pieces)
        with_cot = torch.tensor([example.has_reasoning for example in batch])
        for name, rows in (("reward_with_cot", with_cot), ("reward_without_cot", ~with_cot)):
            if rows.any():
                metrics[name] = weighted_mean(rewards, weights)[rows].mean()
        return {name: float(value) for name, value in metrics.items()}

    def _invalid(self, batch: Sequence[Example], pieces: Sequence[Rewarded]) -> dict[str, float]:
        """The shares of answers that do not have the right form, and of answers that name an item not listed."""
        listed = [{self.item_ids[item] for item in example.candidates.tolist()} for example in batch]
        malformed = unlisted = rows = first = 0
        for piece in pieces:
            for text, source in zip(piece.texts, piece.rollouts.prompt_of.tolist(), strict=True):
                parsed = parse_answer(text)
                if not parsed.well_formed:
                    malformed += 1
                elif parsed.items[0][0] not in listed[first + source]:
                    unlisted += 1
            rows += len(piece.texts)
            first += len(piece.rewards)
        return {
            "completions/malformed_ratio": malformed / rows,
            "completions/unlisted_ratio": unlisted / rows,
        }
