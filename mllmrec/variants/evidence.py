"""Whether the items that reasoning looks at suffice for the answer: REVISOR's DADR and TimeSearch-R's GRPO-CSV.

Both read evidence out of a completion, show nothing else to the same policy, and pay the completion if the policy is right
again. Their evidence is a piece of a video. Here it is the items of the history that the reasoning speaks of.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from mllmrec.prompts.examples import Example
from mllmrec.reasoners.counting import content_words
from mllmrec.rewards.base import Rewards, Shaper
from mllmrec.rl.batch import RolloutBatch
from mllmrec.rollout.base import Judge, PlainRollout, Speaker, Turn, WrappedRollout

ALONE = "evidence"  # names the second draw


class EvidenceAlone(WrappedRollout):
    """Fills in ``sufficient``: 1 if the policy also finds the target with no other history than a row's evidence, else 0.

    Evidence are the ``most`` items of the history that share most words with the reasoning, the latest first; an item
    whose label the reasoning says comes before all others. Reasoning that speaks of no item has no evidence, and 0. The
    second answer is the most likely one, after new reasoning.
    """

    parts = ("sufficient",)

    def __init__(self, inner: PlainRollout, most: int = 3) -> None:
        super().__init__(inner)
        if inner.constrained and not inner.reasons:
            raise ValueError(
                "rollout.inner writes no reasoning, so there is no evidence: choose rollout=reasoned in it"
            )
        if most < 1:
            raise ValueError(f"most={most}: must be a number of items from 1 on")
        self.most = most
        self._items = self._without = 0.0

    def __call__(
        self, examples: Sequence[Example], speaker: Speaker, judge: Judge, turn: Turn
    ) -> RolloutBatch:
        """The inner rollout's rows; each piece of evidence is shown once."""
        batch = self.inner(examples, speaker, judge, turn)
        found = [self.evidence(batch, row, speaker) for row in range(len(batch))]
        counts = [len(one) for one in found]
        self._items = sum(counts) / len(counts)
        self._without = counts.count(0) / len(counts)
        pairs = list(zip(batch.example_of.tolist(), found, strict=True))
        asked = [pair for pair in dict.fromkeys(pairs) if pair[1]]
        right = dict(zip(asked, self._answered(asked, examples, speaker, turn), strict=True))
        sufficient = torch.tensor([right.get(pair, 0.0) for pair in pairs])
        return replace(batch, parts={**batch.parts, "sufficient": sufficient})

    def evidence(self, batch: RolloutBatch, row: int, speaker: Speaker) -> tuple[int, ...]:
        """The item codes that a row's reasoning speaks of, in the order of the history."""
        said = batch.answers[row].reasoning
        words = set(content_words(said))
        shown = speaker.histories.shown(batch.examples[int(batch.example_of[row])])
        marks = []
        for place, item in enumerate(shown):
            label, text = speaker.histories.described(item)
            shared = len(words & set(content_words(text)))
            named = label in said
            marks.append((named, shared, place))
        best = sorted((mark for mark in marks if mark[0] or mark[1]), reverse=True)[: self.most]
        return tuple(shown[place] for place in sorted(place for *_, place in best))

    def _answered(
        self,
        asked: Sequence[tuple[int, tuple[int, ...]]],
        examples: Sequence[Example],
        speaker: Speaker,
        turn: Turn,
    ) -> list[float]:
        """For each example and evidence, 1 if the most likely answer is the target."""
        if not asked:
            return []
        shown = [speaker.histories.with_history(examples[place], items).prompt for place, items in asked]
        drawn = speaker.complete(
            examples,
            Turn(turn.step, 1, greedy=True),
            which=[place for place, _ in asked],
            prompts=shown,
            round_=ALONE,
            source=ALONE,
        )
        weights = torch.ones(len(drawn)) if drawn.weights is None else drawn.weights.cpu()
        rows = [
            int(torch.where(drawn.prompt_of.cpu() == place, weights, -1.0).argmax())
            for place in range(len(asked))
        ]
        named = [[item for item, _ in drawn.answers[row].items[:1]] for row in rows]
        return [float(own == [drawn.question(row).target_id]) for own, row in zip(named, rows, strict=True)]

    def metrics(self) -> dict[str, float]:
        """Items of evidence a row, and the share of rows without any."""
        return {"evidence/items": self._items, "evidence/none": self._without}


class Sufficiency(Shaper):
    """Replaces each reward by a weighted sum of parts, among them ``sufficient``, which a rollout fills in.

    With ``gated`` the part ``sufficient`` counts only as far as the part ``hit`` does, so that lucky evidence earns nothing.

    Raises:
        ValueError: ``weights`` is empty, or gates what it does not name.
    """

    needs_parts = True
    parts = ("self_verified",)

    def __init__(self, weights: Mapping[str, float], gated: bool = False) -> None:
        self.weights, self.gated = {str(name): float(one) for name, one in weights.items()}, gated
        if not {"hit", "sufficient"} <= set(self.weights):
            raise ValueError(
                f"weights={self.weights}: must name hit and sufficient, as in {{hit: 0.6, sufficient: 0.3}}"
            )

    def bounds(self, low: float, high: float) -> tuple[float, float]:
        """Parts are between 0 and 1."""
        values = self.weights.values()
        return sum(min(one, 0.0) for one in values), sum(max(one, 0.0) for one in values)

    def __call__(self, batch: RolloutBatch) -> Rewards:
        """See the class; ``self_verified`` is ``sufficient`` as it counts."""
        counts = {name: batch.parts[name] for name in self.weights}
        if self.gated:
            counts["sufficient"] = counts["sufficient"] * counts["hit"]
        total = torch.stack([self.weights[name] * values for name, values in counts.items()]).sum(0)
        return Rewards(total, {"self_verified": counts["sufficient"]})
