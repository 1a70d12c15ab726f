"""Reads the records that wandb wrote for an offline run: its ``.wandb`` file."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import wandb
from wandb.proto.wandb_internal_pb2 import Record

BLOCK, FILE_HEADER, HEADER = 32768, 7, struct.Struct("<IHB")  # LevelDB's log: crc, length, kind
FULL, LAST = 1, 4


@dataclass
class OfflineRun:
    """The content that wandb would upload."""

    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    group: str = ""
    tags: list[str] = field(default_factory=list)
    exit_code: int | None = None
    files: Path = Path()  # folder of pictures and tables


def read_run(run_folder: Path) -> OfflineRun:
    """The one run below ``run_folder/wandb``, of this process or an earlier one."""
    wandb.teardown()  # the file is complete once its writing process has ended
    (place,) = (run_folder / "wandb").glob("offline-run-*")
    (path,) = place.glob("*.wandb")
    run = OfflineRun(files=place / "files")
    for message in _messages(path.read_bytes()):
        record = Record.FromString(message)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run.group, run.tags = record.run.run_group, list(record.run.tags)
            _update(run.config, record.run.config.update)
        elif kind == "config":
            _update(run.config, record.config.update)
        elif kind == "summary":
            _update(run.summary, record.summary.update)
        elif kind == "history":
            run.history.append({})
            _update(run.history[-1], record.history.item)
        elif kind == "exit":
            run.exit_code = record.exit.exit_code
    return run


def _update(values: dict[str, Any], items: Any) -> None:
    for item in items:
        values["/".join(item.nested_key) or item.key] = json.loads(item.value_json)


def _messages(content: bytes) -> Iterator[bytes]:
    place, parts = FILE_HEADER, []
    while place + HEADER.size <= len(content):
        left = BLOCK - place % BLOCK
        if left < HEADER.size:
            place += left
            continue
        _, length, kind = HEADER.unpack_from(content, place)
        place += HEADER.size
        parts.append(content[place : place + length])
        place += length
        if kind in (FULL, LAST):
            yield b"".join(parts)
            parts = []
