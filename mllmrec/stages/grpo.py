"""Group-relative policy optimisation by hand: rollouts → rewards → advantages → loss (DeepSeekMath, eq. 3).

Differences from the paper's released code: the loss covers only tokens that were drawn (constrained rollouts write
the rest), the reference is the policy at the start of the stage, and reward and evaluation use the same parser.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mllmrec.engine.base import Engine, TokenScores
from mllmrec.engine.batches import TokenBatch
from mllmrec.models.policy import Policy
from mllmrec.prompts.answer_tokens import AnswerTokens
from mllmrec.prompts.examples import Example
from mllmrec.rewards.base import Reward
from mllmrec.rl.advantages import Advantage
from mllmrec.rl.kl import kl_estimate
from mllmrec.rl.losses import PolicyLoss, aggregate
from mllmrec.rollout.base import Rollouts, Sampler
from mllmrec.stages.base import OptimizerSettings
from mllmrec.stages.rollouts import Rewarded, RolloutStage


@dataclass(frozen=True)
class Judged(Rewarded):
    """Rollouts with their rewards and advantages; R = B * G rows."""

    advantages: Tensor  # (R,)


class Grpo(RolloutStage):
    """One step: G rollouts for each of B prompts, their rewards, and ``iterations`` updates from them."""

    name = "grpo"

    def __init__(
        self,
        policy: Policy,
        answers: AnswerTokens,
        optimizer: OptimizerSettings,
        steps: int,
        *,
        engine: Engine,
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
        skip_zero_variance: str = "auto",
        seed: int = 0,
        on_rollouts: Callable[[int, Sequence[Example], Judged], None] | None = None,
        titles: Sequence[str] = (),
        item_ids: Sequence[str] = (),
    ) -> None:
        """Put the parts together.

        Args:
            policy: the policy, with the stage begun, so that its reference is the policy so far.
            answers: tokens of every item's answer.
            optimizer: the optimiser's settings.
            steps: rollout steps in the whole stage.
            engine: runs the model.
            sampler: draws completions.
            reward: judges completions.
            advantage: (B, G) rewards → (B, G).
            policy_loss: the loss per token.
            group_size: G.
            micro_batch_size: completions through the model at once.
            iterations: updates per rollout step.
            beta: weight of the KL; with 0 no reference is computed.
            kl: the KL's estimator.
            aggregation: how token losses are aggregated.
            skip_zero_variance: whether reference and update leave out groups with equal rewards: ``auto`` where that
                changes nothing (beta 0), ``always`` (they lose their KL), ``never``, or ``drop``: always, and the
                loss's mean does not count them (DAPO's dynamic sampling, without its refilling).
            seed: the run's seed.
            on_rollouts: called with every step's rollouts.
            titles: (I,) as the prompts show them.
            item_ids: (I,).
        """
        super().__init__(
            policy,
            answers,
            optimizer,
            steps * iterations,
            engine=engine,
            sampler=sampler,
            reward=reward,
            group_size=group_size,
            micro_batch_size=micro_batch_size,
            seed=seed,
            titles=titles,
            item_ids=item_ids,
        )
        self.advantage, self.policy_loss, self.iterations = advantage, policy_loss, iterations
        self.beta, self.kl, self.aggregation = beta, kl, aggregation
        self.drops = skip_zero_variance == "drop"
        self.skips = skip_zero_variance in ("always", "drop") or (skip_zero_variance == "auto" and beta == 0)
        self.draws_anew = any(
            isinstance(module, torch.nn.Dropout) and module.p > 0 for module in policy.model.modules()
        )
        self.on_rollouts = on_rollouts

    def training_step(self, batch: list[Example], batch_idx: int) -> None:
        """One step from B examples."""
        prompts = self.policy.prompt_batch([example.prompt for example in batch])
        rollouts, encoded = self.roll_out(batch, prompts, batch_idx)
        judged = self.judge(batch, prompts, rollouts)
        if self.on_rollouts is not None:
            self.on_rollouts(batch_idx, batch, judged)
        reference = self.reference_logprobs(judged) if self.beta > 0 else None
        old: Tensor | None = None
        for iteration in range(self.iterations):
            sums: dict[str, float] = {}
            seen = torch.zeros(rollouts.decisions.shape, device=self.device)
            # The rollout's own pass is valid only until the first update.
            known = encoded if iteration == 0 else None
            update = self.update(self.loss_shares(judged, old, reference, sums, encoded=known, seen=seen))
            old = seen if old is None else old
            self.log_step({**update, **self._averages(sums), **self.reward_metrics(batch, [judged])})

    def roll_out(self, batch: Sequence[Example], prompts: TokenBatch, step: int) -> tuple[Rollouts, Any]:
        """Completions of each example, and the encoded prompts if the update can use them."""
        rows = len(batch) * (len(batch[0].candidates) if self.sampler.every_answer else self.group_size)
        # The update uses the rollout's pass too, unless dropout changes the function or the whole step is larger than
        # one micro-batch and might not fit in memory.
        reuses = torch.is_grad_enabled() and self.engine.reusable and not self.draws_anew
        reuses = reuses and rows <= self.micro_batch_size
        rollouts, encoded = self.draw(batch, prompts, step, gradients=reuses)
        return rollouts, encoded if reuses else None

    def judge(self, batch: Sequence[Example], prompts: TokenBatch, rollouts: Rollouts) -> Judged:
        """Rewards and advantages of rollouts."""
        rewarded = self.rewarded(batch, prompts, rollouts)
        weights = None if rollouts.weights is None else rollouts.weights.cpu().view(rewarded.rewards.shape)
        advantages = self.advantage(rewarded.rewards, weights).reshape(-1).to(self.device)
        return Judged(**vars(rewarded), advantages=advantages)

    def loss_shares(
        self,
        judged: Judged,
        old: Tensor | None,
        reference: Tensor | None,
        sums: dict[str, float],
        *,
        encoded: Any = None,
        seen: Tensor | None = None,
    ) -> Iterator[Tensor]:
        """The loss in micro-batches; their sum does not depend on their size.

        Args:
            judged: the step's rollouts.
            old: (R, T) log-probabilities when the rollouts were drawn; None: use this pass's own.
            reference: (R, T), or None without KL.
            sums: receives sums over tokens for the log.
            encoded: the prompts with their graph, if this update uses the rollout's pass.
            seen: (R, T), receives this pass's log-probabilities.
        """
        rollouts = judged.rollouts
        weights = rollouts.weights
        rows = torch.ones(len(rollouts.decisions), device=self.device) if weights is None else weights
        if self.drops:
            rows = rows * self._differs(judged)
        tokens = float((rollouts.decisions * rows[:, None]).sum())
        sequences = float(rows.sum())
        longest = self.sampler.max_new_tokens or self.answers.longest
        sums["tokens"] = 0.0
        for part in self._parts(judged):
            mask = rollouts.decisions[part]
            weight = None if weights is None else weights[part]
            scores = self._scores(self.model, judged, part, encoded)
            if seen is not None:
                seen[part] = scores.logprobs.detach().to(seen.dtype)
            old_part = scores.logprobs.detach() if old is None else old[part]
            loss = self.policy_loss(scores.logprobs, old_part, judged.advantages[part], mask)
            terms = loss.terms
            count = mask if weight is None else mask * weight[:, None]
            if reference is not None:
                kl = kl_estimate(scores.logprobs, reference[part], self.kl)
                terms = terms + self.beta * kl
                _add(sums, "kl", (kl.detach() * count).sum())
            _add(sums, "tokens", count.sum())
            _add(sums, "entropy", (scores.entropy * count).sum())
            _add(sums, "clip_ratio/low_mean", (loss.clipped_low * count).sum())
            _add(sums, "clip_ratio/high_mean", (loss.clipped_high * count).sum())
            yield aggregate(
                terms,
                mask,
                self.aggregation,
                tokens=tokens,
                sequences=sequences,
                max_length=longest,
                weights=weight,
            )

    @torch.no_grad()
    def reference_logprobs(self, judged: Judged) -> Tensor:
        """(R, T) log-probabilities under the policy at the start of the stage; zero for skipped groups."""
        found = torch.zeros(judged.rollouts.decisions.shape, device=self.device)
        with self.policy.reference() as model:
            for part in self._parts(judged):
                found[part] = self._scores(model, judged, part, None, entropy=False).logprobs.to(found.dtype)
        return found

    def _parts(self, judged: Judged) -> list[Tensor]:
        """The rows of each micro-batch: those with something to learn, prompt by prompt."""
        learns = judged.rollouts.decisions.any(1)
        if self.skips:
            learns = learns & self._differs(judged)
        return [part for part in learns.nonzero()[:, 0].split(self.micro_batch_size) if len(part)]

    @staticmethod
    def _differs(judged: Judged) -> Tensor:
        """(R,) bool: rows of groups in which the advantages are not all zero."""
        groups = judged.advantages.view(judged.rewards.shape)
        return (groups != 0).any(1).repeat_interleave(groups.shape[1])

    def _scores(
        self, model: torch.nn.Module, judged: Judged, part: Tensor, encoded: Any, entropy: bool = True
    ) -> TokenScores:
        rollouts = judged.rollouts
        if encoded is not None and rollouts.scores is not None:
            return TokenScores(rollouts.scores.logprobs[part], rollouts.scores.entropy[part])
        prompt_of = rollouts.prompt_of[part]
        if encoded is None:
            used, prompt_of = prompt_of.unique(return_inverse=True)
            prompts = TokenBatch(judged.prompts.ids[used], judged.prompts.mask[used])
            encoded = self.engine.encode(model, prompts)
        return self.engine.score(
            model,
            encoded,
            TokenBatch(rollouts.completions.ids[part], rollouts.completions.mask[part]),
            prompt_of,
            scored=rollouts.decisions[part],
            choices=None if rollouts.choices is None else rollouts.choices.rows(part),
            temperature=self.sampler.temperature,
            entropy=entropy,
        )

    def _averages(self, sums: dict[str, float]) -> dict[str, float]:
        tokens = sums.pop("tokens") or 1.0
        return {name: total / tokens for name, total in sums.items()}


def _add(sums: dict[str, float], name: str, value: Tensor) -> None:
    sums[name] = sums.get(name, 0.0) + float(value)
