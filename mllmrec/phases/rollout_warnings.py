"""Warnings for phases that learn from rollouts, about faults that make a run worthless without ending it."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

import lightning

log = logging.getLogger(__name__)

Metrics = Mapping[str, float]

ENTROPY, LENGTH = "entropy", "completions/mean_length"


class RolloutWarnings(lightning.Callback):
    """Warns of a fault that lasts for a given number of rollout steps in a row, or for the whole of a shorter phase.

    It warns once of each kind: rewards that are equal within groups, no answer good enough to learn, a KL that runs away,
    answers that are hardly ever valid, an entropy that collapses, answers that become far longer or shorter.
    """

    def __init__(
        self,
        steps: int,
        kl: float,
        invalid: float,
        equal: float = 1.0,
        entropy: float = 0.05,
        length: float = 4.0,
    ) -> None:
        """Take the limits.

        Args:
            steps: rollout steps in a row before a warning.
            kl: a KL above this many nats per token runs away.
            invalid: a share of invalid answers, 0 to 1, from here on means that hardly any is valid.
            equal: a share of prompts whose answers all earn the same, 0 to 1, from here on means that rewards teach nothing.
            entropy: below this share of the phase's first entropy, 0 to 1, it has collapsed.
            length: so many times the phase's first mean length, or that part of it, is far from it; where answers are free.
        """
        self.steps, self.kl, self.invalid = steps, kl, invalid
        self.equal, self.entropy, self.length = equal, entropy, length
        self._kinds = (
            self._equal_rewards,
            self._nothing_kept,
            self._far_away,
            self._hardly_valid,
            self._collapsed,
            self._other_length,
        )
        self._first: dict[str, float] = {}  # entropy and length of the phase's first step
        self._held = [0] * len(self._kinds)  # steps in a row, up to the last one
        self._said = [False] * len(self._kinds)
        self._seen = 0

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Look at the numbers that the step logged."""
        self._seen += 1
        self._look(trainer, pl_module, self.steps)

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """In a phase with fewer steps than the limit, warn of what held all along."""
        if 0 < self._seen < self.steps:
            self._held = [held - 1 for held in self._held]
            self._look(trainer, pl_module, self._seen)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed phase has to know."""
        return {"held": self._held, "said": self._said, "seen": self._seen, "first": self._first}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting."""
        self._held, self._said = list(state_dict["held"]), list(state_dict["said"])
        self._seen, self._first = state_dict["seen"], dict(state_dict["first"])

    def _look(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, limit: int) -> None:
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        if not _free_length(pl_module):
            metrics.pop(LENGTH, None)
        for number in (ENTROPY, LENGTH):
            if metrics.get(number, 0.0) > 0 and math.isfinite(metrics[number]):
                self._first.setdefault(number, metrics[number])
        name = str(getattr(pl_module, "name", type(pl_module).__name__))
        section = str(getattr(pl_module, "section", name))
        for place, kind in enumerate(self._kinds):
            message = kind(metrics, section)
            self._held[place] = self._held[place] + 1 if message is not None else 0
            if message is not None and self._held[place] >= limit and not self._said[place]:
                self._said[place] = True
                log.warning("%s: for %d steps in a row %s", name, limit, message)

    def _equal_rewards(self, metrics: Metrics, section: str) -> str | None:
        equal = metrics.get("frac_reward_zero_std", 0.0)
        if equal < self.equal:
            return None
        prompts = "no prompt has" if equal >= 1 else f"only {1 - equal:.0%} of the prompts have"
        nothing = "nothing" if equal >= 1 else f"hardly anything (warnings.equal={self.equal:g})"
        return (
            f"{prompts} had two answers with different rewards (all have {metrics['reward']:.3g} on average), so the "
            f"rewards teach {nothing}: raise {section}.group_size or rollout.temperature, or choose a reward that tells "
            "answers apart"
        )

    def _nothing_kept(self, metrics: Metrics, section: str) -> str | None:
        if metrics.get("kept/answers", 1.0) > 0.0:
            return None
        return (
            f"no answer has been good enough to learn (rewards are {metrics['reward']:.3g} on average): lower "
            f"{section}.threshold, raise {section}.group_size, or train SFT for longer"
        )

    def _far_away(self, metrics: Metrics, section: str) -> str | None:
        # Not "above": nan must not pass.
        if metrics.get("kl", 0.0) <= self.kl:
            return None
        return (
            f"the KL to the policy at the start of the phase has been above {self.kl:g} nats per token (warnings.kl), now "
            f"{metrics['kl']:.3g}: lower {section}.learning_rate, or raise {section}.beta"
        )

    def _hardly_valid(self, metrics: Metrics, section: str) -> str | None:
        malformed = metrics.get("completions/malformed_ratio", 0.0)
        unlisted = metrics.get("completions/unlisted_ratio", 0.0)
        cut_off = metrics.get("completions/clipped_ratio", 0.0)
        if max(malformed + unlisted, cut_off) < self.invalid:
            return None
        return (
            f"hardly any answer has been valid (warnings.invalid={self.invalid:g}): in the last step {malformed:.0%} did not "
            f"have the right form, {unlisted:.0%} named an item that the prompt does not list, and {cut_off:.0%} were cut "
            "off at the length limit; train SFT for longer, raise rollout.max_new_tokens or rollout.max_reasoning_tokens, or "
            "set rollout=constrained"
        )

    def _collapsed(self, metrics: Metrics, section: str) -> str | None:
        first, now = self._first.get(ENTROPY), metrics.get(ENTROPY)
        if first is None or now is None or not now < self.entropy * first:
            return None
        more = "raise grpo.beta, add +regularizers.NAME._target_=mllmrec.rl.regularizers.EntropyBonus, "
        return (
            f"the entropy of the answers has been less than {self.entropy:.0%} of what it was in the first step "
            f"(warnings.entropy), now {now:.3g} nats per token in place of {first:.3g}, so that soon all answers to a prompt are "
            f"the same: lower {section}.learning_rate, {more if section == 'grpo' else ''}or raise rollout.temperature"
        )

    def _other_length(self, metrics: Metrics, section: str) -> str | None:
        first, now = self._first.get(LENGTH), metrics.get(LENGTH)
        if first is None or now is None or first / self.length <= now <= first * self.length:
            return None
        longer = now > first
        change = (
            "lower rollout.max_new_tokens, or choose a reward that long answers do not please"
            if longer
            else "see rollouts.parquet for what the reward likes in such short answers, and change it"
        )
        return (
            f"answers have been {self.length:g} times as {'long' if longer else 'short'} as in the first step, or more so "
            f"(warnings.length), now {now:.3g} tokens in place of {first:.3g}: lower {section}.learning_rate, {change}"
        )


def _free_length(module: lightning.LightningModule) -> bool:
    """Whether the policy writes more than a candidate's answer."""
    collector: Any = getattr(module, "collector", None)
    if collector is None:
        return False
    plain = collector.rollout.plain
    return not plain.constrained or plain.reasons or plain.describes
