"""Writes and shows the results of ``mllmrec.build_cot``."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mllmrec.cache import atomic_path, write_json
from mllmrec.cot.assess import Helping, calibrate
from mllmrec.cot.base import CotKey
from mllmrec.cot.built import Built
from mllmrec.cot.confident import Confident
from mllmrec.cot.funnel import FunnelStage, cot_funnel, draw_funnel, funnel_json
from mllmrec.cot.released import write_captions, write_reasoning
from mllmrec.cot.samples_page import write_samples_page
from mllmrec.randomness import numpy_generator
from mllmrec.reasoners.base import Estimate

RECORDS, SUMMARY, FUNNEL, PICTURE, PAGE = (
    "cot.jsonl",
    "summary.json",
    "funnel.json",
    "funnel.png",
    "samples.html",
)


def write_outputs(
    folder: Path,
    cot: Built,
    keys: Sequence[CotKey],
    summary: Mapping[str, Any],
    lines: Mapping[str, int],
    shown: int,
    seed: int,
) -> list[FunnelStage]:
    """Write every record, the used reasoning in the released layout, the counts, and a page of samples to read.

    Args:
        folder: the job's folder.
        cot: the policy that holds the records.
        keys: the samples, in order.
        summary: the summary of the prepared data.
        lines: user id → ``line_idx`` in the release.
        shown: how many samples the page shows; 0: write no page.
        seed: decides which samples the page shows.

    Returns:
        The funnel.
    """
    dataset = summary["dataset"]
    with atomic_path(folder / RECORDS) as temporary, temporary.open("w", encoding="utf-8") as stream:
        for key in keys:
            record = asdict(cot.records[key])
            line = {"dataset": dataset, **record.pop("key"), **record}
            stream.write(json.dumps(line, ensure_ascii=False) + "\n")
    # Users may give a dataset any name; a file name may not hold every character.
    name = re.sub(r"[^\w.-]+", "_", dataset)
    write_captions(folder / f"{name}_captions.json", cot.pipeline.items)
    write_reasoning(folder / f"{name}_deepseek_cot.json", cot, keys, lines)
    write_json(
        folder / SUMMARY,
        {
            "dataset": dataset,
            "captions": summary["captions"],
            "stages": cot.report(),
            "samples": cot.coverage(keys),
            "leak": cot.told,
        },
    )
    stages = cot_funnel(cot, keys, summary["captions"])
    write_json(folder / FUNNEL, funnel_json(stages))
    draw_funnel(stages, folder / PICTURE)
    if shown > 0:
        drawn = numpy_generator(seed, "samples shown").permutation(len(keys))[:shown]
        records = [cot.records[keys[int(place)]] for place in drawn]
        counted = f"{len(records):,} of {len(keys):,} samples, drawn with seed {seed}"
        write_samples_page(folder / PAGE, cot, records, dataset, counted)
    return stages


def asked_now(cot: Built) -> str:
    """How many texts this command wrote and how many existed before, on one line."""
    parts = []
    for stage, counts in cot.report().items():
        tokens = counts.get("prompt_tokens", 0) + counts.get("completion_tokens", 0)
        spent = cot.pipeline.reasoner(stage).spent
        cost = f" ({spent.describe() if spent else f'{tokens:,} tokens'})" if tokens else ""
        parts.append(
            f"{stage}: {counts.get('written', 0):,} written now{cost}, {counts.get('from_cache', 0):,} before"
        )
    return "; ".join(parts)


def estimate_rows(estimates: Mapping[str, Estimate]) -> list[tuple[str, int, int, int, str]]:
    """One row per stage."""
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
    """How often kept texts help, measured on other negatives than the lift inside the confidence."""
    assert cot.reference is not None
    records = [cot.records[key] for key in keys]
    effects = cot.reference.effects(
        {record.key: record.text for record in records if record.text}, "calibrate"
    )
    table = calibrate(
        [cot.records[key].confidence for key in effects], [effect.lift for effect in effects.values()]
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
