"""Reasoning made by the pipeline: drafts (pseudo-CoT), refinements, and of these the ones that can be trusted."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import ClassVar, Literal

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
from mllmrec.cot.assess.reference import TRAINED, UNKNOWN, Reference
from mllmrec.cot.base import TRAINING, CotKey, CotPolicy
from mllmrec.cot.pipeline import DRAFT, LEAKY, REFINED, Advance, CotPipeline
from mllmrec.errors import UserError
from mllmrec.progress import StageProgress
from mllmrec.reasoners.base import Estimate

log = logging.getLogger(__name__)

LESS_CONFIDENT = "less confident"
TIED = "as confident, but beyond the share"  # of equal ones, a draw decides which are kept


@dataclass
class CotRecord:
    """Everything that is known of one sample's reasoning."""

    key: CotKey
    draft: str = ""
    text: str = ""  # the reasoning; "" where there is none
    thoughts: str = ""  # what a reasoning model thought before it wrote the text
    leak: str = "none"  # what the reasoners were told beside the history: none, target, unknown
    scores: dict[str, float | None] = field(default_factory=dict)
    confidence: float | None = None
    dropped: str = ""  # why the reasoning is not used
    problem: str = ""  # what the reasoner that wrote no text said


class Built(CotPolicy):
    """Drafts or refinements as they were written.

    ``leak="target"`` reproduces the release, whose reasoner is told the target. It is an ablation: records and tables
    carry its name.
    """

    wants: ClassVar[tuple[str, ...]] = ("pipeline",)

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
        self.records: dict[CotKey, CotRecord] = {}

    @property
    def refining(self) -> str:
        """The pipeline's name of the stage that rewrites drafts."""
        return LEAKY if self.leak == "target" else REFINED

    @property
    def told(self) -> str:
        """What the reasoners were told beside the history: none, target, or unknown of texts read from a file."""
        if self.leak != "none":
            return self.leak
        stages = (DRAFT,) if self.stage == DRAFT else (DRAFT, REFINED)
        kinds = {self.pipeline.reasoner(stage).identity()["reasoner"] for stage in stages}
        return "unknown" if "precomputed" in kinds else "none"

    def make(self, keys: Sequence[CotKey]) -> None:
        """Ask for what is missing of these samples."""
        self._write(keys)

    def _write(self, keys: Sequence[CotKey]) -> None:
        new = [key for key in keys if key not in self.records]
        if not new:
            return
        told = self.told
        made = {key: CotRecord(key, leak=told) for key in new}
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
        for sample, record in made.items():
            if not record.text:
                record.dropped = "no text" if record.draft else "no draft"
                failed = self.pipeline.problems[self.refining if record.draft else DRAFT]
                record.problem = failed.get(sample, "")
        self.records |= made

    def supply(self, keys: Iterable[CotKey], wanted: int) -> list[int]:
        """Places, ascending, of samples whose text is used; texts are asked for in rounds until there are ``wanted``.

        A round is as large as what is missing takes, by the share that was used so far. Where nothing at all was used
        of the first round of a reasoner that costs something, no more is asked for.
        """
        waiting = iter(keys)
        looked_at: list[CotKey] = []
        places: list[int] = []
        while len(places) < wanted:
            size = self._round(wanted - len(places), len(looked_at), len(places))
            fresh = list(islice(waiting, size))
            if not fresh:
                break
            looked_at += fresh
            self._write(fresh)
            places = [place for place, key in enumerate(looked_at) if self.reasoning(key)]
            if not places and not self._free(fresh):
                break
        return places

    def _round(self, missing: int, looked_at: int, used: int) -> int:
        """How many samples more to look at where so many texts are missing."""
        share = used / looked_at if looked_at else self._expected_share
        # The sum of rounds that find nothing doubles with each. What a float makes of 7 / 0.7 is no eleventh sample.
        return math.ceil(missing / share - 1e-9) if share else max(looked_at, missing)

    @property
    def _expected_share(self) -> float:
        """Share of the texts that is used, before any is known."""
        return 1.0

    def _free(self, keys: Sequence[CotKey]) -> bool:
        """Whether looking at these samples cost nothing."""
        stages = (DRAFT,) if self.stage == DRAFT else (DRAFT, REFINED)
        records = [self.records[key] for key in keys]
        asked = any(record.text or record.problem for record in records)
        return not asked or all(self.pipeline.reasoner(stage).free for stage in stages)

    def estimates(self, keys: Sequence[CotKey]) -> dict[str, Estimate]:
        """By stage, what making these samples would cost at most; nothing is asked for."""
        found = self.pipeline.estimates(list(keys), self.leak == "target")
        return {stage: cost for stage, cost in found.items() if stage == DRAFT or self.stage == REFINED}

    def reasoning(self, key: CotKey) -> str | None:
        """The text of this sample, or None."""
        record = self.records.get(key)
        return None if record is None or record.dropped else record.text

    def report(self) -> dict[str, dict[str, int]]:
        """What the pipeline's stages were asked for and what came of it."""
        return {stage: report.counts() for stage, report in self.pipeline.reports.items()}

    def coverage(self, keys: Iterable[CotKey]) -> dict[str, int]:
        """How many samples have reasoning, and how many have none for which reason."""
        return dict(Counter(self._outcome(key) for key in keys))

    def _outcome(self, key: CotKey) -> str:
        record = self.records.get(key)
        return "not made" if record is None else record.dropped or "matched"


class Confident(Built):
    """Refinements that pass the confidence-aware assessment (``mllmrec/cot/assess/README.md``).

    With ``top_share``, that share of all training texts made so far is kept, so twice as many are written as are used
    where it is a half. Of equally confident ones a draw from ``seed`` decides.

    The scores are those of form, which can only veto, and of the modalities' agreement. Those of prediction need a
    policy to be measured with and enter where one is given.
    """

    wants = ("pipeline", "seed")

    def __init__(
        self,
        pipeline: CotPipeline,
        seed: int = 0,
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
        self.seed, self.threshold, self.top_share = seed, threshold, top_share
        self.weights = dict(WEIGHTS if weights is None else weights)
        self.floors = dict(FLOORS if floors is None else floors)
        self.min_words, self.max_words = min_words, max_words
        self.reference = None if reference is None else Reference(reference)
        self.lift_scale = lift_scale
        self._idf: Idf | None = None

    def make(self, keys: Sequence[CotKey]) -> None:
        """Write what is missing, assess it, and keep the share that can be trusted of all that was made so far.

        Raises:
            UserError: the reference was trained on all these samples' users, or on other data.
        """
        self._write(keys)
        self._refuse_to_judge_none()

    def supply(self, keys: Iterable[CotKey], wanted: int) -> list[int]:
        """Places, ascending, of samples whose text is kept; so many are written that ``wanted`` are.

        Raises:
            UserError: the reference was trained on all the samples' users, or on other data.
        """
        places = super().supply(keys, wanted)
        self._refuse_to_judge_none()
        return places

    def _write(self, keys: Sequence[CotKey]) -> None:
        new = [key for key in keys if key not in self.records]
        if not new:
            return
        barred = self._barred(new)
        if barred:
            log.warning(
                "%d of %d samples cannot be judged by cot_policy.reference and get no reasoning",
                len(barred),
                len(new),
            )
        self.records |= {key: CotRecord(key, dropped=reason) for key, reason in barred.items()}
        super()._write([key for key in new if key not in barred])
        written = [self.records[key] for key in new if self.records[key].text]
        for record in written:
            record.scores = self._scores(record)
        if self.reference is not None:
            found = self.reference.effects({record.key: record.text for record in written}, "assess")
            for record in written:
                effect = found[record.key]
                record.scores["lift"] = float(lift_score(torch.tensor(effect.lift), self.lift_scale))
                record.scores["agreement"] = effect.agreement
        for record in written:
            record.confidence = confidence(record.scores, self.weights, self.floors)
        self._keep()

    def estimates(self, keys: Sequence[CotKey]) -> dict[str, Estimate]:
        """By stage, what making these samples would cost at most; nothing is asked for."""
        barred = self._barred(keys)
        if self.reference is not None and barred and len(barred) == len(keys):
            raise self.reference.judges_none(barred)
        return super().estimates([key for key in keys if key not in barred])

    def confidences(self, keys: Sequence[CotKey]) -> list[float | None]:
        """Confidences; None for what was vetoed, barred, or never written."""
        records = [self.records.get(key) for key in keys]
        return [None if record is None else record.confidence for record in records]

    @property
    def _expected_share(self) -> float:
        return 1.0 if self.top_share is None else self.top_share

    def _barred(self, keys: Sequence[CotKey]) -> dict[CotKey, str]:
        """The samples that the reference cannot judge, and why."""
        return {} if self.reference is None else self.reference.barred(keys, self.pipeline.items)

    def _refuse_to_judge_none(self) -> None:
        """Refuse to go on where the reference can judge none of the samples seen so far."""
        if self.reference is None:
            return
        barred = {
            key: record.dropped
            for key, record in self.records.items()
            if record.dropped in (TRAINED, UNKNOWN)
        }
        if barred and len(barred) == len(self.records):
            raise self.reference.judges_none(barred)

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
        written = {
            key.sample_id: record
            for key, record in self.records.items()
            if record.text and key.split == TRAINING
        }
        kept = keep(
            list(written),
            {sample: record.confidence for sample, record in written.items()},
            self.seed,
            threshold=self.threshold,
            top_share=self.top_share,
        )
        for record, stays in zip(written.values(), kept.tolist(), strict=True):
            record.dropped = "" if stays else LESS_CONFIDENT
        trusted = [record.confidence for record in written.values() if not record.dropped]
        least = min((value for value in trusted if value is not None), default=None)
        for record in written.values():
            if record.dropped:
                record.dropped = self._why_not(record, least)

    def _why_not(self, record: CotRecord, least: float | None) -> str:
        """Why a text is not kept where ``least`` is the lowest confidence that is."""
        if failed := vetoes(record.scores, self.floors):
            return f"form: {failed[0]}"
        if record.confidence is None:
            return "nothing to judge by"
        return TIED if record.confidence == least else LESS_CONFIDENT


def _progress(name: str, total: int) -> StageProgress:
    return StageProgress(name, total, "samples")


def _advancing(progress: StageProgress) -> Advance:
    return lambda settled, note: progress.advance(settled, note)
