"""Group-relative policy optimisation by hand: rollouts → rewards → advantages → loss (DeepSeekMath, eq. 3).

What differs from the paper's release: the loss sees only tokens that were drawn (constrained rollouts write the
rest), the reference is the policy that the stage began with, and the reward's parser is the evaluation's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mllmrec.engine.plain import TokenScores, completion_scores
from mllmrec.models.policy import Policy
from mllmrec.prompts.answer_tokens import AnswerTokens
from mllmrec.prompts.examples import Example
from mllmrec.randomness import torch_generator
from mllmrec.rewards.base import Question, Reward
from mllmrec.rl.advantages import Advantage, zero_variance
from mllmrec.rl.kl import kl_estimate
from mllmrec.rl.losses import PolicyLoss, aggregate
from mllmrec.rollout.base import Rollouts, Sampler
from mllmrec.stages.base import OptimizerSettings, Stage


@dataclass(frozen=True)
class Judged:
    """Rollouts with what became of them; R = B * G rows."""

    rollouts: Rollouts
    texts: list[str]
    rewards: Tensor  # (B, G)
    parts: list[dict[str, float]]  # R dicts of reward parts
    advantages: Tensor  # (R,)


class Grpo(Stage):
    """One step: G rollouts for each of B prompts, their rewards, and ``iterations`` updates from them."""

    name = "grpo"

    def __init__(
        self,
        policy: Policy,
        answers: AnswerTokens,
        optimizer: OptimizerSettings,
        steps: int,
        *,
        sampler: Sampler,
        reward: Reward,
        advantage: Advantage,
        policy_loss: PolicyLoss,
        group_size: int,
        micro_batch_size: int,
        iterations: int = 1,
        beta: float = 0.0,
        kl: str = "k3",
        aggregation: str = "token_mean",
        seed: int = 0,
        on_rollouts: Callable[[int, Sequence[Example], Judged], None] | None = None,
        titles: Sequence[str] = (),
        item_ids: Sequence[str] = (),
    ) -> None:
        """Put the parts together.

        Args:
            policy: with the stage begun, so that its reference is the policy so far.
            answers: tokens of every item's answer.
            optimizer: its settings.
            steps: rollout steps in the whole stage.
            sampler: draws completions.
            reward: judges them.
            advantage: (B, G) rewards → (B, G).
            policy_loss: per token.
            group_size: G.
            micro_batch_size: completions through the model at once.
            iterations: updates per rollout step.
            beta: weight of the KL; 0 computes no reference.
            kl: its estimator.
            aggregation: how tokens make the loss.
            seed: of the run.
            on_rollouts: told of every step's rollouts.
            titles: (I,) as the prompts show them.
            item_ids: (I,).
        """
        super().__init__(policy.model, optimizer, steps * iterations)
        self.policy, self.answers = policy, answers
        self.sampler, self.reward, self.advantage, self.policy_loss = sampler, reward, advantage, policy_loss
        self.group_size, self.micro_batch_size, self.iterations = group_size, micro_batch_size, iterations
        self.beta, self.kl, self.aggregation, self.seed = beta, kl, aggregation, seed
        self.on_rollouts = on_rollouts
        self.titles, self.item_ids = titles, item_ids
        self.generated_tokens = 0

    def training_step(self, batch: list[Example], batch_idx: int) -> None:
        """One step from B examples."""
        judged = self.judge(batch, self.roll_out(batch, batch_idx))
        if self.on_rollouts is not None:
            self.on_rollouts(batch_idx, batch, judged)
        old = self._without_gradient(self.model, judged.rollouts).logprobs if self.iterations > 1 else None
        reference = None
        if self.beta > 0:
            with self.policy.reference() as model:
                reference = self._without_gradient(model, judged.rollouts).logprobs
        for _ in range(self.iterations):
            sums: dict[str, float] = {}
            update = self.update(self.loss_shares(judged, old, reference, sums))
            self.log_step({**update, **self._averages(sums), **self._reward_metrics(batch, judged)})

    @torch.no_grad()
    def roll_out(self, batch: Sequence[Example], step: int) -> Rollouts:
        """G completions for each example; the draws depend on the seed and the step alone."""
        training = self.model.training
        self.model.eval()
        try:
            rollouts = self.sampler(
                self.model,
                self.policy.prompt_batch([example.prompt for example in batch]),
                self.group_size,
                torch_generator(self.seed, "rollouts", step),
                [[self.answers.of(item) for item in example.candidates.tolist()] for example in batch]
                if self.sampler.constrained
                else (),
                self.policy.end_token,
            )
        finally:
            self.model.train(training)
        self.generated_tokens += int(rollouts.completions.mask.sum())
        return rollouts

    def judge(self, batch: Sequence[Example], rollouts: Rollouts) -> Judged:
        """Rewards and advantages of rollouts."""
        texts = self.policy.decode(rollouts.completions)
        questions = [
            Question(
                self.item_ids[example.target],
                {self.item_ids[item]: self.titles[item] for item in example.candidates.tolist()},
            )
            for example in batch
        ]
        parts = [self.reward(text, questions[row // self.group_size]) for row, text in enumerate(texts)]
        rewards = torch.tensor([part["reward"] for part in parts]).view(len(batch), self.group_size)
        advantages = self.advantage(rewards).reshape(-1).to(self.device)
        return Judged(rollouts, texts, rewards, parts, advantages)

    def loss_shares(
        self, judged: Judged, old: Tensor | None, reference: Tensor | None, sums: dict[str, float]
    ) -> Iterator[Tensor]:
        """The loss in micro-batches whose sum does not depend on their size.

        Args:
            judged: the step's rollouts.
            old: (R, T) log-probabilities when the rollouts were drawn; None: those of this very pass.
            reference: (R, T), or None without KL.
            sums: filled with sums over tokens for the log.
        """
        rollouts = judged.rollouts
        decisions = rollouts.decisions
        rows = len(decisions)
        tokens = int(decisions.sum())
        longest = self.sampler.max_new_tokens or self.answers.longest
        for start in range(0, rows, self.micro_batch_size):
            part = slice(start, start + self.micro_batch_size)
            mask = decisions[part]
            scores = self._scores(self.model, rollouts, part)
            old_part = scores.logprobs.detach() if old is None else old[part]
            loss = self.policy_loss(scores.logprobs, old_part, judged.advantages[part], mask)
            terms = loss.terms
            if reference is not None:
                kl = kl_estimate(scores.logprobs, reference[part], self.kl)
                terms = terms + self.beta * kl
                _add(sums, "kl", kl.detach()[mask].sum())
            _add(sums, "tokens", mask.sum())
            _add(sums, "entropy", scores.entropy[mask].sum())
            _add(sums, "clip_ratio/low_mean", loss.clipped_low.sum())
            _add(sums, "clip_ratio/high_mean", loss.clipped_high.sum())
            yield aggregate(terms, mask, self.aggregation, tokens=tokens, sequences=rows, max_length=longest)

    def _scores(self, model: torch.nn.Module, rollouts: Rollouts, part: slice) -> TokenScores:
        return completion_scores(
            model,
            rollouts.prompts,
            type(rollouts.completions)(rollouts.completions.ids[part], rollouts.completions.mask[part]),
            rollouts.prompt_of[part],
            scored=rollouts.decisions[part],
            allowed=None if rollouts.allowed is None else rollouts.allowed[part],
            temperature=self.sampler.temperature,
        )

    @torch.no_grad()
    def _without_gradient(self, model: torch.nn.Module, rollouts: Rollouts) -> TokenScores:
        parts = [
            self._scores(model, rollouts, slice(start, start + self.micro_batch_size))
            for start in range(0, len(rollouts.decisions), self.micro_batch_size)
        ]
        return TokenScores(
            torch.cat([part.logprobs for part in parts]), torch.cat([part.entropy for part in parts])
        )

    def _averages(self, sums: dict[str, float]) -> dict[str, float]:
        tokens = max(sums.pop("tokens"), 1.0)
        return {name: total / tokens for name, total in sums.items()}

    def _reward_metrics(self, batch: Sequence[Example], judged: Judged) -> dict[str, float]:
        rewards, rollouts = judged.rewards, judged.rollouts
        lengths = rollouts.completions.mask.sum(1).float()
        metrics: dict[str, Any] = {
            "reward": rewards.mean(),
            "reward_std": rewards.std(1).mean() if rewards.shape[1] > 1 else torch.tensor(0.0),
            "frac_reward_zero_std": zero_variance(rewards).float().mean(),
            "completions/mean_length": lengths.mean(),
            "completions/min_length": lengths.min(),
            "completions/max_length": lengths.max(),
            "completions/clipped_ratio": 1 - rollouts.finished.float().mean(),
            "num_tokens": float(self.generated_tokens),
        }
        for name in self.reward.parts:
            values = torch.tensor([part[name] for part in judged.parts])
            metrics[f"rewards/{name}/mean"] = values.mean()
        with_cot = torch.tensor([example.has_reasoning for example in batch])
        for name, rows in (("reward_with_cot", with_cot), ("reward_without_cot", ~with_cot)):
            if rows.any():
                metrics[name] = rewards[rows].mean()
        return {name: float(value) for name, value in metrics.items()}


def _add(sums: dict[str, float], name: str, value: Tensor) -> None:
    sums[name] = sums.get(name, 0.0) + float(value)
