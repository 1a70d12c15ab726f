"""Inspired by Syn-GRPO (arXiv 2511.19343, github.com/hqhQAQ/Syn-GRPO): prompts are synthesised, and those that spread rewards are learnt.

The authors' policy describes new images, a server draws them, and a description is paid by the diversity of the responses
that its image causes later. Here a prompt is synthesised by changing its history, and the diversity of a prompt is the
standard deviation of its rewards. All answers to a prompt share it, so paid to them it would cancel within the group. It
is paid to the kind of change instead, which is then drawn more often.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from mllmrec.prompts.examples import Example
from mllmrec.randomness import numpy_generator
from mllmrec.rl.batch import RolloutBatch, join
from mllmrec.rollout.base import Judge, PlainRollout, Speaker, Turn, WrappedRollout

SYNTHESISED = "synthesised"  # the source of answers to such a prompt
CHANGES = ("drop", "swap", "shuffle", "recent")


def changed(history: Sequence[int], change: str, generator: np.random.Generator) -> list[int]:
    """The history with one item left out, two neighbours exchanged, in another order, or its later half alone.

    Args:
        history: item codes, oldest first.
        change: one of `CHANGES`.
        generator: draws.
    """
    items = list(history)
    if len(items) < 2:
        return items
    if change == "recent":
        return items[len(items) // 2 :]
    if change == "shuffle":
        return [items[place] for place in generator.permutation(len(items))]
    place = int(generator.integers(len(items) - (change == "swap")))
    if change == "drop":
        return items[:place] + items[place + 1 :]
    return [*items[:place], items[place + 1], items[place], *items[place + 2 :]]


class HistoryAugment(WrappedRollout):
    """Some examples are also asked with a changed history; if rewards there spread, the answers are a group of their own.

    The target stays. A kind of change is drawn in proportion to the mean standard deviation (divisor G) of the rewards that
    its prompts had so far, which begins at ``start`` as if seen once.

    Args:
        inner: draws answers.
        share: probability that an example is asked with a changed history, too.
        least_std: groups of synthesised prompts are learnt if their standard deviation is above this.
        changes: the kinds.
        start: see above.
        seed: of the draws of examples, kinds and changes.
    """

    def __init__(
        self,
        inner: PlainRollout,
        share: float = 0.5,
        least_std: float = 1e-6,
        changes: Sequence[str] = CHANGES,
        start: float = 0.5,
        seed: int = 0,
    ) -> None:
        super().__init__(inner)
        unknown = [one for one in changes if one not in CHANGES]
        if unknown or not changes:
            raise ValueError(f"changes={list(changes)}: choose from {', '.join(CHANGES)}")
        if not 0 < share <= 1:
            raise ValueError(f"share={share}: must be above 0 and at most 1")
        if start <= 0:
            raise ValueError(f"start={start}: must be above 0, so that every kind is drawn at first")
        self.share, self.least_std, self.changes, self.seed = share, least_std, tuple(changes), seed
        self._sums = dict.fromkeys(self.changes, start)
        self._counts = dict.fromkeys(self.changes, 1)
        self._kept = self._diversity = 0.0

    def __call__(
        self, examples: Sequence[Example], speaker: Speaker, judge: Judge, turn: Turn
    ) -> RolloutBatch:
        """The inner rollout's groups, and those of synthesised prompts behind them."""
        # Rows that others join need no graph of their own.
        plain = replace(turn, gradients=False)
        batch = judge(self.inner(examples, speaker, judge, plain)).by_group()
        kinds, prompts = self.synthesised(examples, speaker, turn.step)
        self._kept = self._diversity = 0.0
        if not prompts:
            return batch
        more = judge(
            speaker.complete(
                examples,
                plain,
                which=list(prompts),
                prompts=list(prompts.values()),
                round_=SYNTHESISED,
                source=SYNTHESISED,
            )
        )
        # Groups count from 0 on, in the order of the prompts.
        more = replace(more, group_of=more.prompt_of.cpu())
        spread = more.groups.std(more.judged(), unbiased=False)
        for place, diversity in zip(prompts, spread.tolist(), strict=True):
            self._sums[kinds[place]] += diversity
            self._counts[kinds[place]] += 1
        learnt = spread > self.least_std
        self._kept, self._diversity = float(learnt.float().mean()), float(spread.mean())
        if not learnt.any():
            return batch
        more = more.take(learnt[more.group_of].nonzero()[:, 0])
        own = more.group_of.unique(return_inverse=True)[1]
        return join([batch, replace(more, group_of=own + batch.groups.count)])

    def synthesised(
        self, examples: Sequence[Example], speaker: Speaker, step: int
    ) -> tuple[dict[int, str], dict[int, str]]:
        """The kind of change and the prompt of each example that gets one, by its place."""
        kinds, prompts = {}, {}
        names, chances = list(self.chances()), np.array(list(self.chances().values()))
        for place, example in enumerate(examples):
            draw = numpy_generator(self.seed, "history_augment", step, example.sample_id)
            if draw.random() >= self.share:
                continue
            kind = names[int(draw.choice(len(names), p=chances))]
            shown = speaker.histories.shown(example)
            other = changed(shown, kind, draw)
            if other != shown:
                kinds[place] = kind
                prompts[place] = speaker.histories.with_history(example, other).prompt
        return kinds, prompts

    def chances(self) -> dict[str, float]:
        """The probability of each kind of change."""
        means = {kind: self._sums[kind] / self._counts[kind] for kind in self.changes}
        total = sum(means.values())
        return {kind: mean / total for kind, mean in means.items()}

    def metrics(self) -> dict[str, float]:
        """The share of synthesised prompts that are learnt, their mean diversity, and the probabilities of all kinds."""
        chances = {f"augment/{kind}": chance for kind, chance in self.chances().items()}
        return {"augment/kept": self._kept, "augment/diversity": self._diversity, **chances}

    def state_dict(self) -> dict[str, Any]:
        """What each kind earned, and how often it was seen."""
        return {"sums": dict(self._sums), "counts": dict(self._counts)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Part`."""
        self._sums, self._counts = dict(state["sums"]), dict(state["counts"])
