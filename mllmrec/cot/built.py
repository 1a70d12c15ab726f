"""Reasoning made by the pipeline: drafts (pseudo-CoT), refinements, and of these the ones that can be trusted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch

from mllmrec.cot.assess import (
    FLOORS,
    WEIGHTS,
    Idf,
    confidence,
    form_scores,
    keep,
    lift_score,
    modality_scores,
    vetoes,
)
from mllmrec.cot.base import CotKey, CotPolicy
from mllmrec.cot.pipeline import DRAFT, REFINED, Advance, CotPipeline
from mllmrec.errors import UserError
from mllmrec.progress import StageProgress


@dataclass
class CotRecord:
    """Everything that is known of one sample's reasoning."""

    key: CotKey
    draft: str = ""
    text: str = ""  # the reasoning; "" where there is none
    thoughts: str = ""  # what a reasoning model thought before it wrote the text
    leak: str = "none"  # what the reasoner was told beside the history
    scores: dict[str, float | None] = field(default_factory=dict)
    confidence: float | None = None
    dropped: str = ""  # why the reasoning is not used


class Built(CotPolicy):
    """Drafts or refinements as they were written.

    ``leak="target"`` reproduces the release, whose reasoner is told the target. It is an ablation: records and tables
    carry its name.
    """

    wants = ("pipeline",)

    def __init__(
        self,
        pipeline: CotPipeline,
        stage: Literal["draft", "refined"] = "refined",
        leak: Literal["none", "target"] = "none",
    ) -> None:
        if stage not in (DRAFT, REFINED):
            raise UserError(f"cot_policy.stage={stage}: must be {DRAFT} or {REFINED}")
        if leak not in ("none", "target"):
            raise UserError(f"cot_policy.leak={leak}: must be none or target")
        if leak == "target" and stage == DRAFT:
            raise UserError(
                "cot_policy.leak=target with cot_policy.stage=draft: only refinements are told the target"
            )
        self.pipeline, self.stage, self.leak = pipeline, stage, leak
        self.records: dict[str, CotRecord] = {}

    def make(self, keys: Sequence[CotKey]) -> None:
        """Ask for what is missing of these samples."""
        new = [key for key in keys if key.sample_id not in self.records]
        if not new:
            return
        made = {key.sample_id: CotRecord(key, leak=self.leak) for key in new}
        with _progress("CoT drafts", len(new)) as progress:
            drafts = self.pipeline.drafts(new, _advancing(progress))
        for sample, written in drafts.items():
            made[sample].draft = made[sample].text = written.text
        if self.stage == REFINED:
            with _progress("CoT refinements", len(drafts)) as progress:
                texts = {sample: written.text for sample, written in drafts.items()}
                refined = self.pipeline.refinements(new, texts, self.leak == "target", _advancing(progress))
            for sample, record in made.items():
                final = refined.get(sample)
                record.text, record.thoughts = (final.text, final.reasoning) if final else ("", "")
        for record in made.values():
            if not record.text:
                record.dropped = "no text" if record.draft else "no draft"
        self.records |= made

    def reasoning(self, key: CotKey) -> str | None:
        """The text of this sample, or None."""
        record = self.records.get(key.sample_id)
        return None if record is None or record.dropped else record.text

    def report(self) -> dict[str, dict[str, int]]:
        """What the pipeline's stages were asked for and what came of it."""
        return {stage: report.counts() for stage, report in self.pipeline.reports.items()}

    def coverage(self, keys: Iterable[CotKey]) -> dict[str, int]:
        """How many samples have reasoning, and how many have none for which reason."""
        return dict(Counter(self._outcome(key) for key in keys))

    def _outcome(self, key: CotKey) -> str:
        record = self.records.get(key.sample_id)
        return "not made" if record is None else record.dropped or "matched"


class Confident(Built):
    """Refinements that pass the confidence-aware assessment (``mllmrec/cot/assess/README.md``).

    The scores are those of form, which can only veto, and of the modalities' agreement. Those of prediction need a
    policy to be measured with and enter where one is given.
    """

    def __init__(
        self,
        pipeline: CotPipeline,
        threshold: float | None = None,
        top_share: float | None = 0.5,
        weights: Mapping[str, float] | None = None,
        floors: Mapping[str, float] | None = None,
        min_words: int = 8,
        max_words: int = 120,
        reference: str | None = None,
        lift_scale: float = 1.0,
    ) -> None:
        super().__init__(pipeline, "refined")
        if (threshold is None) == (top_share is None):
            raise UserError(
                "cot_policy: give a threshold or a top_share, one of the two; set the other to null"
            )
        self.threshold, self.top_share = threshold, top_share
        self.weights = dict(WEIGHTS if weights is None else weights)
        self.floors = dict(FLOORS if floors is None else floors)
        self.min_words, self.max_words = min_words, max_words
        self.reference, self.lift_scale = reference, lift_scale
        self._idf: Idf | None = None

    def make(self, keys: Sequence[CotKey]) -> None:
        """Write what is missing, assess it, and keep the share that can be trusted of all that was made so far."""
        new = [key for key in keys if key.sample_id not in self.records]
        if not new:
            return
        super().make(new)
        written = [self.records[key.sample_id] for key in new if self.records[key.sample_id].text]
        for record in written:
            record.scores = self._scores(record)
        if self.reference is not None:
            from mllmrec.cot.assess.reference import effects_of

            found = effects_of(
                self.reference, {record.key.sample_id: record.text for record in written}, "assess"
            )
            for record in written:
                effect = found.get(record.key.sample_id)
                if effect is not None:
                    record.scores["lift"] = float(lift_score(torch.tensor(effect.lift), self.lift_scale))
                    record.scores["agreement"] = effect.agreement
        for record in written:
            record.confidence = confidence(record.scores, self.weights, self.floors)
        self._keep()

    def confidences(self) -> dict[str, float | None]:
        """Sample id → confidence, None for what was vetoed or could not be written."""
        return {sample: record.confidence for sample, record in self.records.items()}

    def _scores(self, record: CotRecord) -> dict[str, float | None]:
        items = self.pipeline.items
        if self._idf is None:
            self._idf = Idf([item.caption or item.title for item in items.values()])
        history = [items[item] for item in record.key.history_ids]
        form = form_scores(
            record.text,
            [f"{item.title} {item.caption}".strip() for item in history],
            [*record.key.history_ids, record.key.target_id],
            min_words=self.min_words,
            max_words=self.max_words,
        )
        modality = modality_scores(
            record.draft, record.text, [item.caption or item.title for item in history], self._idf
        )
        return {**form, **modality, "lift": None, "agreement": None}

    def _keep(self) -> None:
        written = {sample: record for sample, record in self.records.items() if record.text}
        kept = keep(
            list(written),
            {sample: record.confidence for sample, record in written.items()},
            threshold=self.threshold,
            top_share=self.top_share,
        )
        for record, stays in zip(written.values(), kept.tolist(), strict=True):
            failed = vetoes(record.scores, self.floors)
            record.dropped = "" if stays else f"form: {failed[0]}" if failed else "less confident"


def _progress(name: str, total: int) -> StageProgress:
    return StageProgress(name, total, "samples")


def _advancing(progress: StageProgress) -> Advance:
    return lambda settled, note: progress.advance(settled, note)
