"""The GRPO phase: a shell of Lightning around `mllmrec.step.policy_gradient.PolicyGradient`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from mllmrec.errors import UserError
from mllmrec.phases.base import OptimizerSettings, PhaseModule
from mllmrec.phases.kept_rollouts import in_tokens
from mllmrec.prompts.examples import Example
from mllmrec.rl.batch import RolloutBatch
from mllmrec.rl.parts import Part
from mllmrec.rollout.draw import NoProbabilities
from mllmrec.step.collector import Collector
from mllmrec.step.diagnostics import LearntTokens
from mllmrec.step.metrics import rollout_metrics
from mllmrec.step.policy_gradient import PolicyGradient

log = logging.getLogger(__name__)


class RolloutPhase(PhaseModule):
    """A phase that trains on the policy's own answers to the prompts."""

    def __init__(self, collector: Collector, optimizer: OptimizerSettings, updates: int) -> None:
        """Take what makes and judges the answers.

        Args:
            collector: its policy is the one that learns.
            optimizer: the optimiser's settings.
            updates: optimiser steps in the whole phase.
        """
        super().__init__(collector.speaker.policy.model, optimizer, updates)
        self.collector = collector
        self._learns_from: RolloutBatch | None = None  # during the updates of a step
        self.tokens = LearntTokens(collector.speaker)

    @property
    def generated_tokens(self) -> int:
        """Tokens drawn so far."""
        return self.collector.speaker.generated_tokens

    @property
    def bounds(self) -> tuple[float, float]:
        """The lowest and the highest possible reward."""
        return self.collector.bounds

    @property
    def learners(self) -> list[Part]:
        """Parts outside of the collector that have numbers to log."""
        return []

    @property
    def parts(self) -> list[Part]:
        """Those of the collector, and the learners."""
        return [*self.collector.parts, *self.learners]

    def progress(self) -> dict[str, Any]:
        """See `PhaseModule`."""
        counts = {"generated": self.generated_tokens, "learnt": self.tokens.count}
        return {**super().progress(), **counts}

    def take_up(self, progress: Mapping[str, Any]) -> None:
        """See `PhaseModule`."""
        super().take_up(progress)
        self.collector.speaker.generated_tokens = progress["generated"]
        self.tokens.count = progress["learnt"]

    def part_metrics(self) -> dict[str, float]:
        """The parts' own numbers, as they are now."""
        own = {name: value for part in self.learners for name, value in part.metrics().items()}
        return self.collector.metrics() | own

    def rollout_metrics(self, batch: RolloutBatch) -> dict[str, float]:
        """The numbers to log about rollouts."""
        metrics = rollout_metrics(batch, constrained=self.collector.rollout.plain.constrained)
        return {**metrics, **self.part_metrics(), "num_tokens": float(self.generated_tokens)}

    def in_tokens(self, batch: list[Example], step: int) -> dict[str, Any]:
        """The prompts, and each completion with what it earned."""
        rollouts = self._learns_from
        return {} if rollouts is None else in_tokens(rollouts)

    @contextmanager
    def learning_from(self, rollouts: RolloutBatch) -> Iterator[None]:
        """Hold a step's rollouts during its updates, and no longer: they may hold the graph of a pass."""
        self._learns_from = rollouts
        try:
            yield
        finally:
            self._learns_from = None

    @contextmanager
    def drawing(self, step: int) -> Iterator[None]:
        """Turn a draw from something that is no distribution into an error that says what to do."""
        try:
            yield
        except NoProbabilities as error:
            raise UserError(
                f"phase {self.name} diverged at step {step}: {error}; lower {self.section}.learning_rate (now "
                f"{self.settings.learning_rate})"
            ) from error


class Grpo(RolloutPhase):
    """One step: G rollouts for each of B prompts, their rewards, and ``iterations`` updates from them."""

    name = section = "grpo"
    divides_steps = True

    def __init__(
        self,
        step: PolicyGradient,
        optimizer: OptimizerSettings,
        steps: int,
        on_rollouts: Callable[[RolloutBatch], None] | None = None,
        sampler: Part | None = None,
        most_tokens: int | None = None,
        upcoming: Callable[[int], Sequence[Example]] | None = None,
    ) -> None:
        """Take the step.

        Args:
            step: made for a policy whose phase has begun.
            optimizer: the optimiser's settings.
            steps: rollout steps in the whole phase.
            on_rollouts: called with every step's rollouts.
            sampler: chose the prompts, and may have numbers to log.
            most_tokens: the phase ends after the step in which so many have been generated; None for no limit.
            upcoming: the examples of a step, none after the last one, for a server that draws the next step's completions
                during the updates; None: it does not.
        """
        super().__init__(step.collector, optimizer, steps * step.settings.iterations)
        self.step, self.on_rollouts, self.sampler, self.most_tokens = step, on_rollouts, sampler, most_tokens
        self.tokens, self.upcoming = step.tokens, upcoming

    @property
    def learners(self) -> list[Part]:
        """Sampler, advantage, loss and regularizers."""
        own = [] if self.sampler is None else [self.sampler]
        return [*own, self.step.advantage, self.step.loss, *self.step.regularizers]

    def take_up(self, progress: Mapping[str, Any]) -> None:
        """See `PhaseModule`."""
        super().take_up(progress)
        if self.step.speaker.served is not None:
            self.step.speaker.served.updates = progress["updates"][0]

    def training_step(self, batch: list[Example], batch_idx: int) -> None:
        """One step from B examples."""
        with self.drawing(batch_idx):
            rollouts = self.step.collect(batch, batch_idx)
        if self.on_rollouts is not None:
            self.on_rollouts(rollouts)
        others = [] if self.upcoming is None else self.upcoming(batch_idx + 1)
        if others:
            self.step.ask_ahead(others, batch_idx + 1)
        numbers = self.rollout_metrics(rollouts)
        with self.learning_from(rollouts):
            for update in self.step.updates(rollouts, self.update):
                self.log_step({**update, **numbers, **self.part_metrics()})
        if self.most_tokens is not None and self.generated_tokens >= self.most_tokens:
            log.info(
                "%s: ended at step %d, with %d tokens generated",
                self.name,
                batch_idx + 1,
                self.generated_tokens,
            )
            self.trainer.should_stop = True
