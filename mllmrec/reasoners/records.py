"""Files of reasoning in the layout released with MLLMRec-R1: one record for each sample."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mllmrec.data.text import as_text, read_json, read_json_lines
from mllmrec.errors import UserError, choices
from mllmrec.reasoners.told import TOLD, UNKNOWN


def read_records(path: Path) -> Iterator[tuple[str, object]]:
    """(where, record) of each record of a JSON list or of a JSON Lines file."""
    if path.suffix in (".jsonl", ".ndjson"):
        for number, line in read_json_lines(path):
            yield f"{path}:{number}", line
        return
    records: list[object] = read_json(path, list, "a list of records")
    for number, record in enumerate(records, start=1):
        yield f"{path} record {number}", record


@dataclass(frozen=True)
class Record:
    """One text of a file, and the sample that it belongs to."""

    user_id: str
    target_id: str
    history_ids: tuple[str, ...]  # oldest first
    reasoning: str  # "" for none
    leak: str  # one of `TOLD`


def parse_record(record: object, where: str) -> Record:
    """Read one record.

    Args:
        record: the record, as read from JSON.
        where: file and line or number, for messages.

    Raises:
        UserError: it is not a valid record.
    """
    if not isinstance(record, dict):
        raise UserError(f"{where}: expected a record, found {as_text(record)[:60]!r}")
    missing = [
        name for name in ("user_id", "history_items", "target_item", "reasoning") if name not in record
    ]
    if missing:
        raise UserError(f"{where}: no {', '.join(missing)}: add it or remove the record")
    history, reasoning = record["history_items"], record["reasoning"]
    if not isinstance(history, list):
        raise UserError(f"{where}: history_items is not a list: give the item ids, oldest first")
    if not isinstance(reasoning, str | None):
        raise UserError(f"{where}: reasoning is not text: give a text, or null for none")
    leak = record.get("leak")
    if leak is not None and leak not in TOLD:
        raise UserError(
            f"{where}: leak={as_text(leak)[:60]!r}: give what the writer was told: {choices(TOLD)}"
        )
    return Record(
        str(record["user_id"]).strip(),
        _item_id(record["target_item"], where),
        tuple(_item_id(item, where) for item in history),
        (reasoning or "").strip(),
        leak or UNKNOWN,
    )


def _item_id(item: object, where: str) -> str:
    """The id of an item that is given as its id or as ``{"item_id": …, "title": …}``."""
    value = item.get("item_id") if isinstance(item, dict) else item
    if not isinstance(value, str | int) or isinstance(value, bool):
        raise UserError(f'{where}: {as_text(item)[:60]!r} is not an item: give an id or {{"item_id": id}}')
    return str(value).strip()
