"""Captions and reasoning in the files of the MLLMRec-R1 release, in a form that its loader and ours read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from mllmrec.cache import write_json
from mllmrec.cot.base import CotKey
from mllmrec.cot.built import Built
from mllmrec.data.released import is_released
from mllmrec.data.sequences import read_sequences
from mllmrec.reasoners.base import HistoryItem


def write_captions(path: Path, items: Mapping[str, HistoryItem]) -> None:
    """Write ``{item id: {"title", "caption"}}`` of items with a caption; ``caption=precomputed`` reads it."""
    write_json(
        path,
        {
            item.item_id: {"title": item.title, "caption": item.caption}
            for item in items.values()
            if item.caption
        },
    )


def write_reasoning(path: Path, cot: Built, keys: Sequence[CotKey], lines: Mapping[str, int]) -> None:
    """Write a list of records of the samples with used reasoning; ``precomputed`` policies and drafts read it.

    A record has the release's keys, ``sample_id`` and ``leak``: what the reasoners were told besides the history (none,
    target, or unknown).

    Args:
        path: the file.
        cot: the policy that gives the reasoning.
        keys: the samples, in order.
        lines: user id → ``line_idx``, from `line_indices`; a user without an entry gets null.
    """
    items = cot.pipeline.items

    def item(item_id: str) -> dict[str, str]:
        return {"item_id": item_id, "title": items[item_id].title}

    write_json(
        path,
        [
            {
                "line_idx": lines.get(key.user_id),
                "user_id": key.user_id,
                "history_items": [item(item_id) for item_id in key.history_ids],
                "target_item": item(key.target_id),
                "reasoning": text,
                "sample_id": key.sample_id,
                "leak": cot.records[key].leak,
            }
            for key in keys
            if (text := cot.reasoning(key))
        ],
    )


def line_indices(root: str | Path | None) -> dict[str, int]:
    """User id → raw line of ``train.tsv``, counted from 0; empty if ``root`` is not in the released layout."""
    if root is None or not is_released(Path(root).expanduser()):
        return {}
    sequences, _ = read_sequences(Path(root).expanduser() / "train.tsv")
    return {str(user): int(line) - 1 for user, line in zip(sequences.user_ids, sequences.lines, strict=True)}
