"""Reasoning that the pipeline made and that, by its assessment, can be trusted."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

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
from mllmrec.cot.assess.reference import TRAINED, UNKNOWN, OpenJudge, Reference
from mllmrec.cot.base import TRAINING, CotKey
from mllmrec.cot.built import Built, CotRecord
from mllmrec.cot.pipeline import CotPipeline
from mllmrec.errors import UserError
from mllmrec.flat import flat_settings
from mllmrec.reasoners.base import Estimate

log = logging.getLogger(__name__)

LESS_CONFIDENT = "less confident"
TIED = "as confident, but beyond the share"  # a draw decides which of equally confident texts are kept


@dataclass(frozen=True)
class Keeping:
    """How confident a text has to be.

    Args:
        threshold: keep texts of at least this confidence.
        top_share: keep that share of all training texts made so far. With a share of one half, twice as many texts are
            written as are used.

    Raises:
        UserError: not exactly one of the two is given.
    """

    threshold: float | None = None
    top_share: float | None = 0.5

    def __post_init__(self) -> None:
        if (self.threshold is None) == (self.top_share is None):
            raise UserError(
                "cot_policy: give a threshold or a top_share, one of the two; set the other to null"
            )


@dataclass(frozen=True)
class Assessment:
    """What a text is judged by (`confidence`, `form_scores`, `lift_score`).

    Args:
        weights: the weights of the scores in the confidence; None: `WEIGHTS`.
        floors: a text with a score below its floor is vetoed; None: `FLOORS`.
        min_words: the fewest words of a text.
        max_words: the most words of a text.
        lift_scale: nats of lift that count as a score of 0.73.
    """

    weights: Mapping[str, float] | None = None
    floors: Mapping[str, float] | None = None
    min_words: int = 8
    max_words: int = 120
    lift_scale: float = 1.0


class Confident(Built):
    """Refinements that pass the confidence-aware assessment (``mllmrec/cot/assess/README.md``).

    A draw from ``seed`` decides between equally confident texts.

    The scores are the scores of form, which can only veto, and the agreement of the modalities. Scores of prediction
    are added if a reference policy is given, since they are measured with one.

    Prompts of test and validation are not training data to choose from. Their reasoning is used unless its form
    vetoes it. This decision uses neither the target, nor the reference, nor the texts of other samples.
    """

    gives_confidence = True

    wants = ("pipeline", "seed", "open_judge")

    @flat_settings
    def __init__(
        self,
        pipeline: CotPipeline,
        seed: int = 0,
        keeping: Keeping = Keeping(),
        assessment: Assessment = Assessment(),
        reference: str | None = None,
        open_judge: OpenJudge | None = None,
    ) -> None:
        super().__init__(pipeline, "refined")
        self.seed, self.keeping, self.assessment = seed, keeping, assessment
        self.weights = dict(WEIGHTS if assessment.weights is None else assessment.weights)
        self.floors = dict(FLOORS if assessment.floors is None else assessment.floors)
        self.reference: Reference | None = None
        if reference is not None:
            if open_judge is None:
                raise ValueError(
                    "cot_policy.reference: give what opens a run, as in prepare(cfg, open_judge=...)"
                )
            self.reference = Reference(reference, open_judge)
        self._idf: Idf | None = None

    def make(self, keys: Sequence[CotKey]) -> None:
        """Write what is missing, assess it, and keep the trusted share of everything made so far.

        Raises:
            UserError: the reference was trained on the users of all these samples, or on other data.
        """
        self._write(keys)
        self._refuse_to_judge_none()

    def supply(self, keys: Iterable[CotKey], wanted: int) -> list[int]:
        """Places of samples with a text that is kept, ascending. Texts are written until ``wanted`` are kept.

        Raises:
            UserError: the reference was trained on the users of all the samples, or on other data.
        """
        places = super().supply(keys, wanted)
        self._refuse_to_judge_none()
        return places

    def _write(self, keys: Sequence[CotKey]) -> None:
        new = [key for key in keys if key not in self.records]
        training = [key for key in new if key.split == TRAINING]
        if training:
            self._write_to_choose_from(training)
        others = [key for key in new if key.split != TRAINING]
        super()._write(others)
        for record in (self.records[key] for key in others if self.records[key].text):
            record.scores = self._scores(record, record.key.history_ids)
            if failed := vetoes(record.scores, self.floors):
                record.dropped = _of_form(failed)

    def _write_to_choose_from(self, keys: Sequence[CotKey]) -> None:
        """Write and assess training samples, then decide again which of all texts are kept."""
        barred = self._barred(keys)
        if barred:
            log.warning(
                "%d of %d samples cannot be judged by cot_policy.reference and get no reasoning",
                len(barred),
                len(keys),
            )
        self.records |= {key: CotRecord(key, dropped=reason) for key, reason in barred.items()}
        super()._write([key for key in keys if key not in barred])
        written = [self.records[key] for key in keys if self.records[key].text]
        for record in written:
            record.scores = self._scores(record, [*record.key.history_ids, record.key.target_id])
        if self.reference is not None:
            found = self.reference.effects({record.key: record.text for record in written}, "assess")
            for record in written:
                effect = found[record.key]
                lift = lift_score(torch.tensor(effect.lift), self.assessment.lift_scale)
                record.scores["lift"] = float(lift)
                record.scores["agreement"] = effect.agreement
        for record in written:
            record.confidence = confidence(record.scores, self.weights, self.floors)
        self._keep()

    def estimates(self, keys: Sequence[CotKey]) -> dict[str, Estimate]:
        """By stage, the most that making these samples would cost. Nothing is asked for."""
        barred = self._barred([key for key in keys if key.split == TRAINING])
        if self.reference is not None and barred and len(barred) == len(keys):
            raise self.reference.judges_none(barred)
        return super().estimates([key for key in keys if key not in barred])

    def confidences(self, keys: Sequence[CotKey]) -> list[float | None]:
        """Confidences; None for texts that were vetoed, barred or never written, and outside training."""
        records = [self.records.get(key) for key in keys]
        return [None if record is None else record.confidence for record in records]

    @property
    def _expected_share(self) -> float:
        return 1.0 if self.keeping.top_share is None else self.keeping.top_share

    def _barred(self, keys: Sequence[CotKey]) -> dict[CotKey, str]:
        """The samples that the reference cannot judge, and why."""
        return {} if self.reference is None else self.reference.barred(keys, self.pipeline.items)

    def _refuse_to_judge_none(self) -> None:
        """Refuse to go on if the reference can judge none of the samples seen so far."""
        if self.reference is None:
            return
        barred = {
            key: record.dropped
            for key, record in self.records.items()
            if record.dropped in (TRAINED, UNKNOWN)
        }
        if barred and len(barred) == len(self.records):
            raise self.reference.judges_none(barred)

    def _scores(self, record: CotRecord, ids: Sequence[str]) -> dict[str, float | None]:
        """The scores of a text that need no policy. ``ids`` are the ids that the text should not name."""
        items = self.pipeline.items
        if self._idf is None:
            self._idf = Idf([item.caption or item.title for item in items.values()])
        history = [items[item] for item in record.key.history_ids]
        form = form_scores(
            record.text,
            [f"{item.title} {item.caption}".strip() for item in history],
            ids,
            min_words=self.assessment.min_words,
            max_words=self.assessment.max_words,
            shown=self.pipeline.refine_request(record.key, "").shown,
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
            threshold=self.keeping.threshold,
            top_share=self.keeping.top_share,
        )
        for record, stays in zip(written.values(), kept.tolist(), strict=True):
            record.dropped = "" if stays else LESS_CONFIDENT
        trusted = [record.confidence for record in written.values() if not record.dropped]
        least = min((value for value in trusted if value is not None), default=None)
        for record in written.values():
            if record.dropped:
                record.dropped = self._why_not(record, least)

    def _why_not(self, record: CotRecord, least: float | None) -> str:
        """Why a text is not kept, if ``least`` is the lowest confidence that is kept."""
        if failed := vetoes(record.scores, self.floors):
            return _of_form(failed)
        if record.confidence is None:
            return "nothing to judge by"
        return TIED if record.confidence == least else LESS_CONFIDENT


def _of_form(failed: Sequence[str]) -> str:
    return f"form: {failed[0]}"
