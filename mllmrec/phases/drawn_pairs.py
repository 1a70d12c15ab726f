"""DPO on answers that an earlier phase drew: a good answer to a prompt is preferred to a bad one (VerIPO's verifier).

VerIPO (Li et al. 2025, arXiv 2505.19000) learns from preferences among the rollouts of GRPO before GRPO goes on. What makes an
answer good is the earlier phase's reward, after its shapers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mllmrec.models.completions import learnt_tokens
from mllmrec.phases.dpo import Dpo, Preferences
from mllmrec.phases.inputs import Drawn
from mllmrec.prompts.examples import Example


@dataclass(frozen=True)
class Pair:
    """Two answers to a prompt; the reasoned answer of each example is the completion."""

    chosen: Example
    rejected: Example


def pairs_of(drawn: Sequence[Drawn], least: float) -> list[Pair]:
    """Pairs of the answers to each prompt: the best with the worst, the second best with the second worst, and so on.

    Each answer to a prompt counts once, and one that earned ``least`` or more is good. Prompts whose answers are all good
    or all bad have no pairs.
    """
    answers: dict[str, dict[str, Drawn]] = {}
    for one in drawn:
        answers.setdefault(one.example.prompt, {}).setdefault(one.example.reasoned_answer, one)
    pairs = []
    for own in answers.values():
        ranked = sorted(own.values(), key=lambda one: -one.reward)
        good = [one.example for one in ranked if one.reward >= least]
        bad = [one.example for one in reversed(ranked) if one.reward < least]
        pairs += [Pair(*both) for both in zip(good, bad, strict=False)]
    return pairs


class DrawnDpo(Dpo):
    """One update from B pairs of answers. The reference is the policy at the start of the phase."""

    def asking(self, batch: Sequence[Any]) -> list[Example]:
        """The examples whose prompts are shown."""
        return [pair.chosen for pair in batch]

    def preferences(self, batch: Sequence[Any], step: int) -> Preferences:
        """The tokens of B `Pair` objects; nothing is drawn."""
        prompts = self.policy.encode_prompts([pair.chosen.prompt for pair in batch])
        chosen, _ = learnt_tokens(self.policy, self.answers, [pair.chosen for pair in batch])
        rejected, _ = learnt_tokens(self.policy, self.answers, [pair.rejected for pair in batch])
        return self.in_parts(prompts, [list(both) for both in zip(chosen, rejected, strict=True)])
