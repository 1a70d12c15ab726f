"""What enters each stage of the CoT pipeline, what leaves it, and why the rest is dropped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mllmrec.cache import atomic_path
from mllmrec.cot.assess.reference import TRAINED, UNKNOWN
from mllmrec.cot.base import CotKey
from mllmrec.cot.built import Built
from mllmrec.cot.confident import Confident
from mllmrec.cot.pipeline import DRAFT, REFINED

CAPTION, ASSESS = "caption", "assess"
_CAPTION_LOSSES = {
    "no_image": "no image",
    "unreadable_image": "unreadable image",
    "no_caption": "not in the captions file",
}
_WITHOUT = "without: "
_REASON_COLOURS = ("#e2a25a", "#c8746b", "#9c7bb0", "#7f9ac4", "#8f8f8f", "#c9b65b")


@dataclass(frozen=True)
class FunnelStage:
    """One stage: ``kept`` of ``entered`` units go on; the others are counted by reason."""

    stage: str
    unit: str  # items or samples
    entered: int
    dropped: Mapping[str, int]  # reason -> units, most frequent first

    @property
    def kept(self) -> int:
        """Units that go on."""
        return self.entered - sum(self.dropped.values())


def cot_funnel(cot: Built, keys: Sequence[CotKey], captions: Mapping[str, int]) -> list[FunnelStage]:
    """The stages in order.

    Args:
        cot: the policy that holds the records of ``keys``.
        keys: the samples that were asked for.
        captions: the counts from `mllmrec.captions.caption_items`.
    """
    lost = {_CAPTION_LOSSES[name]: count for name, count in captions.items() if name in _CAPTION_LOSSES}
    lost |= {
        name.removeprefix(_WITHOUT): count for name, count in captions.items() if name.startswith(_WITHOUT)
    }
    stages = [_stage(CAPTION, "items", captions.get("captioned", 0) + sum(lost.values()), Counter(lost))]
    records = [cot.records[key] for key in keys]
    if isinstance(cot, Confident) and cot.reference is not None:
        barred = Counter(record.dropped for record in records if record.dropped in (TRAINED, UNKNOWN))
        stages.append(_stage("reference", "samples", len(records), barred))
        records = [record for record in records if record.dropped not in (TRAINED, UNKNOWN)]
    failed = Counter(record.problem for record in records if record.dropped == "no draft")
    stages.append(_stage(DRAFT, "samples", len(records), failed))
    if cot.stage == REFINED:
        records = [record for record in records if record.draft]
        failed = Counter(record.problem for record in records if record.dropped == "no text")
        stages.append(_stage(cot.refining, "samples", len(records), failed))
    if isinstance(cot, Confident):
        records = [record for record in records if record.text]
        failed = Counter(record.dropped for record in records if record.dropped)
        stages.append(_stage(ASSESS, "samples", len(records), failed))
    return stages


def _stage(stage: str, unit: str, entered: int, dropped: Counter[str]) -> FunnelStage:
    return FunnelStage(stage, unit, entered, {name: count for name, count in dropped.most_common() if count})


def funnel_json(stages: Sequence[FunnelStage]) -> list[dict[str, Any]]:
    """Plain values, one entry per stage."""
    return [
        {
            "stage": stage.stage,
            "unit": stage.unit,
            "in": stage.entered,
            "kept": stage.kept,
            "dropped": sum(stage.dropped.values()),
            "reasons": dict(stage.dropped),
        }
        for stage in stages
    ]


def funnel_rows(stages: Sequence[FunnelStage]) -> list[tuple[str, str, int, int, int, str]]:
    """(stage, unit, in, kept, dropped, reasons) of each stage, for a table."""
    return [
        (
            stage.stage,
            stage.unit,
            stage.entered,
            stage.kept,
            stage.entered - stage.kept,
            ", ".join(f"{name} {count:,}" for name, count in stage.dropped.items()),
        )
        for stage in stages
    ]


def draw_funnel(stages: Sequence[FunnelStage], out: Path) -> None:
    """Draw one bar per stage: what is kept, then what is dropped by reason, as shares of what enters at the top.

    Items and samples are different units, so each unit has its own full width.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.5, 0.9 + 0.95 * len(stages)), layout="constrained")
    axis = figure.subplots()
    widest = {unit: max(stage.entered for stage in stages if stage.unit == unit) for unit in _units(stages)}
    reasons = list(dict.fromkeys(name for stage in stages for name in stage.dropped))
    for row, stage in enumerate(stages):
        scale = max(widest[stage.unit], 1)
        axis.barh(
            row, stage.kept / scale, color="#4c9a76", height=0.5, label="kept" if row == 0 else "_nolegend_"
        )
        start = stage.kept / scale
        for name, count in stage.dropped.items():
            colour = _REASON_COLOURS[reasons.index(name) % len(_REASON_COLOURS)]
            axis.barh(row, count / scale, left=start, color=colour, height=0.5)
            start += count / scale
        share = f" ({stage.kept / stage.entered:.0%})" if stage.entered else ""
        axis.text(
            0.0,
            row - 0.32,
            f"{stage.entered:,} {stage.unit} in, {stage.kept:,} kept{share}",
            va="bottom",
            fontsize=9,
        )
    for number, name in enumerate(reasons):
        axis.barh(0, 0, color=_REASON_COLOURS[number % len(_REASON_COLOURS)], label=name)
    axis.set_yticks(range(len(stages)), [stage.stage for stage in stages])
    axis.invert_yaxis()
    axis.set_xlim(0, 1)
    axis.set_xticks([])
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    axis.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=9)
    with atomic_path(out) as temporary:
        figure.savefig(temporary, dpi=150, format="png")


def _units(stages: Sequence[FunnelStage]) -> list[str]:
    return list(dict.fromkeys(stage.unit for stage in stages))
