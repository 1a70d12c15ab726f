"""Reasoning made by the pipeline: drafts (pseudo-CoT) and refinements, as they were written."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import ClassVar, Literal

from mllmrec.cot.base import CotKey, CotPolicy
from mllmrec.cot.pipeline import DRAFT, LEAKY, REFINED, Advance, CotPipeline
from mllmrec.errors import UserError
from mllmrec.reasoners.base import Estimate
from mllmrec.reasoners.told import NOTHING, most_told
from mllmrec.screen.progress import StageProgress


@dataclass
class CotRecord:
    """Everything known about one sample's reasoning."""

    key: CotKey
    draft: str = ""
    text: str = ""  # the reasoning; "" if there is none
    thoughts: str = ""  # the thoughts of a reasoning model before it wrote the text
    leak: str = NOTHING  # what the reasoners were told besides the history: none, unknown, target
    scores: dict[str, float | None] = field(default_factory=dict)
    confidence: float | None = None
    dropped: str = ""  # why the reasoning is not used
    problem: str = ""  # the reasoner's own reason, if it wrote no text


class Built(CotPolicy):
    """Drafts or refinements as they were written.

    ``leak="target"`` reproduces the release: its reasoner is told the target. It is an ablation; records and tables
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
        """The pipeline's name for the stage that rewrites drafts."""
        return LEAKY if self.leak == "target" else REFINED

    @property
    def told(self) -> str:
        """What the reasoners knew besides the history. For texts read from a file, the file says it."""
        stages = (DRAFT,) if self.stage == DRAFT else (DRAFT, REFINED)
        return most_told([self.leak, *(self.pipeline.reasoner(stage).told for stage in stages)])

    def make(self, keys: Sequence[CotKey]) -> None:
        """Write the missing texts of these samples."""
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
        """Places of samples with a text that is used, ascending. Rounds of requests go on until ``wanted`` are used.

        The size of a round is the number still missing, divided by the share of texts used so far. If no text of the
        first round is used and the reasoner costs something, no more texts are asked for.
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
        """How many more samples to look at if `missing` texts are missing."""
        share = used / looked_at if looked_at else self._expected_share
        # Each round that finds nothing doubles the sum. A float such as 7 / 0.7 must not round up to 11.
        return math.ceil(missing / share - 1e-9) if share else max(looked_at, missing)

    @property
    def _expected_share(self) -> float:
        """The share of texts expected to be used, before any is known."""
        return 1.0

    def _free(self, keys: Sequence[CotKey]) -> bool:
        """Whether looking at these samples costs nothing."""
        stages = (DRAFT,) if self.stage == DRAFT else (DRAFT, REFINED)
        records = [self.records[key] for key in keys]
        asked = any(record.text or record.problem for record in records)
        return not asked or all(self.pipeline.reasoner(stage).free for stage in stages)

    def estimates(self, keys: Sequence[CotKey]) -> dict[str, Estimate]:
        """By stage, the most that making these samples would cost. Nothing is asked for."""
        found = self.pipeline.estimates(list(keys), self.leak == "target")
        return {stage: cost for stage, cost in found.items() if stage == DRAFT or self.stage == REFINED}

    def reasoning(self, key: CotKey) -> str | None:
        """The text of this sample, or None."""
        record = self.records.get(key)
        return None if record is None or record.dropped else record.text

    def report(self) -> dict[str, dict[str, int]]:
        """What the pipeline's stages were asked for, and what came of it."""
        return {stage: report.counts() for stage, report in self.pipeline.reports.items()}

    def coverage(self, keys: Iterable[CotKey]) -> dict[str, int]:
        """How many samples have reasoning, and how many have none, by reason."""
        return dict(Counter(self._outcome(key) for key in keys))

    def _outcome(self, key: CotKey) -> str:
        record = self.records.get(key)
        return "not made" if record is None else record.dropped or "matched"


def _progress(name: str, total: int) -> StageProgress:
    return StageProgress(name, total, "samples")


def _advancing(progress: StageProgress) -> Advance:
    return lambda settled, note: progress.advance(settled, note)
