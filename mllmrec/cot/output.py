"""What ``mllmrec.build_cot`` writes and shows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mllmrec.cache import atomic_path, write_json
from mllmrec.cot.assess import Helping, calibrate
from mllmrec.cot.base import CotKey
from mllmrec.cot.built import Built, Confident
from mllmrec.reasoners.base import Estimate

RECORDS, RELEASED, SUMMARY = "cot.jsonl", "deepseek_cot.json", "summary.json"


def write_outputs(
    folder: Path, cot: Built, keys: Sequence[CotKey], titles: Mapping[str, str], summary: Mapping[str, Any]
) -> None:
    """Write every record, the texts that are used in the released layout, and the counts.

    Args:
        folder: of the job.
        cot: with the records.
        keys: of the samples, in their order.
        titles: by item id.
        summary: of the prepared data.
    """
    with atomic_path(folder / RECORDS) as temporary, temporary.open("w", encoding="utf-8") as stream:
        for key in keys:
            record = asdict(cot.records[key.sample_id])
            line = {"dataset": summary["dataset"], **record.pop("key"), **record}
            stream.write(json.dumps(line, ensure_ascii=False) + "\n")

    def item(item_id: str) -> dict[str, str]:
        return {"item_id": item_id, "title": titles.get(item_id, "")}

    used = [
        {
            "user_id": key.user_id,
            "sample_id": key.sample_id,
            "history_items": [item(item_id) for item_id in key.history_ids],
            "target_item": item(key.target_id),
            "reasoning": text,
            "leak": cot.leak,
        }
        for key in keys
        if (text := cot.reasoning(key))
    ]
    with atomic_path(folder / RELEASED) as temporary:
        temporary.write_text(json.dumps(used, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    write_json(
        folder / SUMMARY,
        {
            "dataset": summary["dataset"],
            "captions": summary["captions"],
            "stages": cot.report(),
            "samples": cot.coverage(keys),
            "leak": cot.leak,
        },
    )


def stage_rows(cot: Built, keys: Sequence[CotKey], summary: Mapping[str, Any]) -> list[tuple[str, str, int]]:
    """What each stage made, and what became of the samples."""
    rows = [("caption", name, count) for name, count in summary["captions"].items()]
    rows += [(stage, name, count) for stage, counts in cot.report().items() for name, count in counts.items()]
    outcomes = cot.coverage(keys)
    shown = {"matched": "kept"}
    label = "assess" if isinstance(cot, Confident) else "result"
    return rows + [
        (label, shown.get(name, f"dropped: {name}"), count) for name, count in sorted(outcomes.items())
    ]


def estimate_rows(estimates: Mapping[str, Estimate]) -> list[tuple[str, int, int, int, str]]:
    """One row a stage."""
    return [
        (
            stage,
            cost.requests,
            cost.prompt_tokens,
            cost.completion_tokens,
            "" if cost.money is None else f"{cost.money:.2f}",
        )
        for stage, cost in estimates.items()
    ]


def calibration_rows(cot: Confident, keys: Sequence[CotKey]) -> list[tuple[str, int, str, str, str]]:
    """How often what is kept helps, on other negatives than those of the lift inside the confidence."""
    from mllmrec.cot.assess.reference import effects_of

    assert cot.reference is not None
    texts = {key.sample_id: cot.records[key.sample_id].text for key in keys}
    effects = effects_of(cot.reference, {sample: text for sample, text in texts.items() if text}, "calibrate")
    table = calibrate(
        [cot.records[sample].confidence for sample in effects], [effect.lift for effect in effects.values()]
    )
    return [
        _row("all", table.base),
        _row("vetoed", table.without),
        *(_row(f"{kept.threshold:.3f}", kept.helping) for kept in table.rows),
    ]


def _row(name: str, found: Helping) -> tuple[str, int, str, str, str]:
    if found.share is None or found.low is None or found.high is None or found.mean_lift is None:
        return name, 0, "", "", ""
    return (
        name,
        found.samples,
        f"{found.share:.3f}",
        f"[{found.low:.3f}, {found.high:.3f}]",
        f"{found.mean_lift:+.3f}",
    )
