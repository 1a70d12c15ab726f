"""Group-relative policy optimisation by hand: rollouts → rewards → advantages → loss (DeepSeekMath, eq. 3).

Differences from the paper's released code: the loss covers only tokens that were drawn (constrained rollouts write
the rest), the reference is the policy at the start of the phase, and reward and evaluation use the same parser.

    step = PolicyGradient(collector, GroupRelative(), ClippedRatio(), settings)
    batch = step.collect(examples, 0)
    for metrics in step.updates(batch, update):
        print(metrics)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from mllmrec.prompts.examples import Example
from mllmrec.ranks import the_ranks
from mllmrec.rl.advantages import Advantage
from mllmrec.rl.batch import KnownScores, RolloutBatch
from mllmrec.rl.behaviour import MEAN_DIFFERENCE, sampling_metrics, truncated_ratio
from mllmrec.rl.left_out import most_uncertain, near_enough
from mllmrec.rl.losses import OF_THE_STEP, LossInputs, PolicyLoss, aggregate
from mllmrec.rl.parts import REFERENCE, Part
from mllmrec.rl.regularizers import Regularizer
from mllmrec.rollout.base import Turn
from mllmrec.step.collector import Collector
from mllmrec.step.diagnostics import LearntTokens, effective_share, token_diagnostics
from mllmrec.step.together import whole_groups

Update = Callable[
    [Iterable[Tensor]], dict[str, float]
]  # one optimiser step from shares of a loss → numbers to log


@dataclass(frozen=True)
class StepSettings:
    """The numbers of a step."""

    group_size: int  # G
    micro_batch_size: int  # completions through the model at once
    iterations: int = 1  # updates from the same rollouts
    aggregation: str = "token_mean"  # how token losses become one loss, see `aggregate`
    # Whether reference and update leave out groups without an advantage: auto where that changes nothing (no
    # regularizer), always (they lose their regularizers), never, or drop: always, and the loss's mean does not count
    # them (DAPO; `mllmrec.step.refill` fills the step up).
    skip_zero_variance: str = "auto"
    log_kl: bool = False  # whether completions are scored under the reference even if no part reads that
    # Which tokens the policy loss covers: this share of each group's, those of the highest entropy, and no bad answers that
    # became less likely by more than so many nats a token.
    entropy_share: float = 1.0
    off_policy_limit: float | None = None
    # The most that the ratio of the policy to the server that drew a token counts (`mllmrec.rl.behaviour`); None: no ratio.
    truncate_at: float | None = None


class PolicyGradient:
    """One step: rollouts of some examples, their rewards and advantages, and the updates from them."""

    def __init__(
        self,
        collector: Collector,
        advantage: Advantage,
        loss: PolicyLoss,
        settings: StepSettings,
        regularizers: Sequence[Regularizer] = (),
    ) -> None:
        """Put the parts together; the policy's weights for this phase must be in place.

        Raises:
            ValueError: the loss does not accept advantages that vary as these do.
        """
        if advantage.varies not in loss.accepts:
            raise ValueError(
                f"{type(advantage).__name__} varies by {advantage.varies}, and {type(loss).__name__} accepts only "
                f"advantages that vary by {', '.join(sorted(loss.accepts))}"
            )
        self.collector, self.speaker = collector, collector.speaker
        self.advantage, self.loss, self.settings = advantage, loss, settings
        self.regularizers = tuple(regularizers)
        skips = settings.skip_zero_variance
        self.drops = skips == "drop"
        # A mean over a micro-batch's own tokens changes with the tokens that are left out.
        no_matter = not self.regularizers and settings.aggregation in OF_THE_STEP
        self.skips = skips in ("always", "drop") or (skips == "auto" and no_matter)
        self.tokens = LearntTokens(self.speaker)
        self.whole_groups = (
            loss.whole_groups
            or settings.entropy_share < 1
            or any(part.whole_groups for part in self.regularizers)
        )
        self.draws_anew = any(
            isinstance(module, torch.nn.Dropout) and module.p > 0
            for module in self.speaker.policy.model.modules()
        )
        if collector.reference is not None:
            collector.reference.begin(self.speaker.policy)

    @property
    def parts(self) -> list[Part]:
        """All parts, in the order in which they act."""
        return [*self.collector.parts, self.advantage, self.loss, *self.regularizers]

    def collect(self, examples: Sequence[Example], step: int) -> RolloutBatch:
        """The judged rollouts of N examples, with their advantages."""
        plain = self.collector.rollout.plain
        rows = sum(plain.rows(self.settings.group_size, len(one.candidates)) for one in examples)
        # The update uses the rollout's pass too, unless dropout changes the function, the whole step is larger than one
        # micro-batch and might not fit in memory, or other processes draw a part.
        reuses = torch.is_grad_enabled() and self.speaker.engine.reusable and not self.draws_anew
        reuses = reuses and not the_ranks().several
        turn = Turn(step, self.settings.group_size, reuses and rows <= self.settings.micro_batch_size)
        batch = self.collector.collect(examples, turn)
        batch = self.collector.fill(batch, self.advantage.needs)
        advantages = self.advantage(batch)
        if the_ranks().several:
            the_ranks().check_same(f"advantages in step {step}", advantages.flatten().tolist())
        return replace(batch, advantages=advantages.to(self.speaker.device))

    def updates(self, batch: RolloutBatch, update: Update) -> Iterator[dict[str, float]]:
        """Make the step's updates; yields the numbers to log of each."""
        needs = frozenset().union(*(part.needs for part in (self.loss, *self.regularizers)))
        needs |= {REFERENCE} if self.settings.log_kl else frozenset()
        rows = self._learning(batch).nonzero()[:, 0]
        batch = self.collector.fill(batch, needs, rows=rows)
        # Tokens without an advantage are not learnt, whether or not the pass leaves them out.
        self.tokens.add(int(batch.learnt[self._differs(batch)].sum()))
        sampling: dict[str, float] = {}
        for iteration in range(self.settings.iterations):
            sums: dict[str, float] = {}
            seen = torch.zeros(batch.learnt.shape, device=self.speaker.device)
            # The rollout's own pass is valid only until the first update.
            known = batch.known if iteration == 0 else None
            shares = self.loss_shares(batch, sums, known=known, seen=seen)
            if iteration == 0 and batch.behaviour is not None:
                # Before the weights change, and after the last share has scored its rows.
                compare = partial(self._compare, batch, seen, rows, sampling)
                shares = _then(shares, compare)
            numbers = update(shares)
            seen, sums = the_ranks().sum(seen), the_ranks().total(sums)
            if self.speaker.served is not None:
                self.speaker.served.updated()
            batch = batch if batch.old is not None else replace(batch, old=seen)
            tokens = sums.pop("tokens") or 1.0
            means = {name: total / tokens for name, total in sums.items()}
            shared = effective_share(batch, seen, rows)
            yield {**numbers, **means, **shared, **self.tokens.metrics(), **sampling}
        if self.collector.reference is not None:
            self.collector.reference.follow(self.speaker.policy, batch.step)

    def ask_ahead(self, examples: Sequence[Example], step: int) -> None:
        """Let the server draw the completions of a later step while this step's updates are made."""
        self.speaker.ask_ahead(examples, Turn(step, self.settings.group_size))

    def _compare(self, batch: RolloutBatch, seen: Tensor, rows: Tensor, found: dict[str, float]) -> None:
        """Fill in how far the server's probabilities are from the policy's.

        Raises:
            UserError: they are another model's.
        """
        assert batch.behaviour is not None
        old = seen if batch.old is None else batch.old
        found |= sampling_metrics(
            old[rows], batch.behaviour[rows], batch.learnt[rows], self.settings.truncate_at
        )
        if self.speaker.served is not None and found:
            self.speaker.served.check_difference(found[MEAN_DIFFERENCE])
            found |= self.speaker.served.metrics()

    def loss_shares(
        self,
        batch: RolloutBatch,
        sums: dict[str, float],
        *,
        known: KnownScores | None = None,
        seen: Tensor | None = None,
    ) -> Iterator[Tensor]:
        """The loss in micro-batches; their sum does not depend on their size, except with ``micro_batch_mean``.

        Of several processes each has its own micro-batches of the same loss, and the sum is over all of them.

        Args:
            batch: the step's rollouts. Without ``old`` this pass's own log-probabilities are the old ones.
            sums: receives sums over tokens for the log.
            known: the rollout's pass with its graph, if this update uses it.
            seen: (R, T), receives this pass's log-probabilities.
        """
        rows = torch.ones(len(batch), device=self.speaker.device) if batch.weights is None else batch.weights
        if self.drops:
            rows = rows * self._differs(batch)
        tokens = float((batch.learnt * rows[:, None]).sum())
        sequences = float(rows.sum())
        sums["tokens"] = 0.0
        cuts, parts = self._own_micro_batches(batch)
        for part in cuts:
            scores = self.speaker.scores(self.speaker.policy.model, batch, part, known=known)
            if seen is not None:
                seen[part] = scores.logprobs.detach().to(seen.dtype)
            inputs = self._inputs(batch, part, scores)
            loss = self.loss(inputs)
            count = inputs.mask if inputs.weights is None else inputs.mask * inputs.weights[:, None]
            terms, metrics = loss.terms, dict(loss.metrics)
            kept = self._kept(inputs)
            if kept is not None:
                terms = torch.where(kept, terms, 0.0)
                metrics["left_out_mean"] = ~kept
            if batch.behaviour is not None and self.settings.truncate_at is not None:
                terms = terms * truncated_ratio(inputs.old, batch.behaviour[part], self.settings.truncate_at)
            for regularizer in self.regularizers:
                term = regularizer(inputs)
                terms = terms + regularizer.weight(batch.step) * term
                metrics[regularizer.name] = term.detach()
            metrics |= token_diagnostics(inputs, loss.metrics)
            _add(sums, "tokens", count.sum())
            for name, values in metrics.items():
                _add(sums, name, (values * count).sum())
            yield aggregate(
                terms,
                inputs.mask,
                self.settings.aggregation,
                tokens=tokens,
                sequences=sequences,
                max_length=self.speaker.longest,
                weights=inputs.weights,
                parts=parts,
            )

    def _kept(self, inputs: LossInputs) -> Tensor | None:
        """(r, T) bool: the tokens that the policy loss covers; None: all that count. Regularizers cover all."""
        kept = None
        if self.settings.entropy_share < 1:
            kept = most_uncertain(inputs, self.settings.entropy_share)
        if self.settings.off_policy_limit is not None:
            near = near_enough(inputs, self.settings.off_policy_limit)
            kept = near if kept is None else kept & near
        return kept

    def _inputs(self, batch: RolloutBatch, part: Tensor, scores: Any) -> LossInputs:
        """What losses see of some rows."""

        def of(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor[part.to(tensor.device)].to(self.speaker.device)

        advantages = of(batch.advantages)
        assert advantages is not None
        old = of(batch.old)
        return LossInputs(
            logprobs=scores.logprobs,
            old=scores.logprobs.detach() if old is None else old,
            advantages=advantages if advantages.dim() == 2 else advantages[:, None],
            mask=batch.learnt[part],
            entropy=scores.entropy,
            step=batch.step,
            rewards=of(batch.rewards),
            group_of=of(batch.group_of),
            weights=of(batch.weights),
            segments=of(batch.segments),
            reference=of(batch.reference),
            teacher=of(batch.teacher),
            foreign=of(batch.foreign),
        )

    def _own_micro_batches(self, batch: RolloutBatch) -> tuple[list[Tensor], int]:
        """The rows of each micro-batch of this process, and the number of micro-batches of all processes.

        A process learns whole groups. Only a loss that depends on the micro-batches takes those of one process.
        """
        rows, ranks = self._learning(batch).nonzero()[:, 0], the_ranks()
        if self.settings.aggregation in OF_THE_STEP:
            cuts = self._micro_batches(batch, whole_groups(rows, batch.group_of))
            return cuts, len(cuts)
        cuts = self._micro_batches(batch, rows)
        return cuts[ranks.rank :: ranks.size], len(cuts)

    def _micro_batches(self, batch: RolloutBatch, rows: Tensor) -> list[Tensor]:
        """The rows of each micro-batch, group by group."""
        size = self.settings.micro_batch_size
        if not self.whole_groups:
            return [part for part in rows.split(size) if len(part)]
        parts: list[list[int]] = []
        groups = batch.group_of[rows.cpu()].tolist()
        for place, (row, group) in enumerate(zip(rows.tolist(), groups, strict=True)):
            begins = place == 0 or groups[place - 1] != group
            if begins and (not parts or len(parts[-1]) + groups.count(group) > size):
                parts.append([])
            parts[-1].append(row)
        return [torch.tensor(part, device=rows.device) for part in parts]

    def _learning(self, batch: RolloutBatch) -> Tensor:
        """(R,) bool: the rows with something to learn."""
        learns = batch.learnt.any(1)
        return learns & self._differs(batch) if self.skips else learns

    def _differs(self, batch: RolloutBatch) -> Tensor:
        """(R,) bool: rows of groups in which the advantages are not all zero."""
        assert batch.advantages is not None
        counts = (batch.advantages != 0).view(len(batch), -1).any(1)
        return batch.groups.rows(batch.groups.any(counts.cpu())).to(self.speaker.device)


def _then(shares: Iterable[Tensor], after: Callable[[], None]) -> Iterator[Tensor]:
    yield from shares
    after()


def _add(sums: dict[str, float], name: str, value: Tensor) -> None:
    sums[name] = sums.get(name, 0.0) + float(value)
