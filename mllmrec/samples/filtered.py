"""The filtered interactions of a run, read from the cache if they are many and were prepared before.

A stored set lies in ``cache_dir/interactions/KEY`` and is read as memory-mapped arrays, which several processes share. The key
covers the content of the tables, all settings of the dataset, and the code that reads and filters them.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from omegaconf import DictConfig, OmegaConf

from mllmrec import data
from mllmrec.cache import atomic_folder, file_fingerprint, fingerprint, source_fingerprint
from mllmrec.data.base import Dataset, Items
from mllmrec.data.filters import FilteredInteractions, Filters, build_interactions
from mllmrec.data.funnel import Funnel
from mllmrec.data.loaded import load_checked
from mllmrec.data.long_texts import bounded

log = logging.getLogger(__name__)

MANY = 1_000_000  # interactions; fewer are prepared about as fast as they are read
_TEXTS = ("ids", "titles", "details")


@dataclass(frozen=True)
class Filtered:
    """A dataset after its filters."""

    name: str
    skipped: dict[str, int]  # reason -> rows, files or images left out at reading
    items: Items
    interactions: FilteredInteractions
    funnel: Funnel


def filtered(cfg: DictConfig, source: Dataset) -> Filtered:
    """Load and filter the dataset that ``cfg.dataset`` describes.

    Args:
        cfg: the run's configuration.
        source: the dataset.

    Raises:
        UserError: the data has faults, or a filter leaves nothing.
    """
    files = source.files_read()
    if files is None:
        return _prepared(cfg, source)
    settings: Any = OmegaConf.to_container(cfg.dataset, resolve=True)
    paths = {str(path) for path in files.values()}
    key = {
        "settings": {name: value for name, value in settings.items() if str(value) not in paths},
        "files": {name: file_fingerprint(path) for name, path in files.items()},
        "seed": cfg.protocol_seed,
        "code": source_fingerprint(
            __file__,
            *map(str, sorted(Path(data.__file__).parent.glob("*.py"))),
            libraries=("numpy", "pyarrow"),
        ),
    }
    place = Path(cfg.cache_dir) / "interactions" / fingerprint(key)
    if place.is_dir():
        try:
            return _read(place, key)
        except (OSError, ValueError, KeyError, TypeError, pa.ArrowInvalid) as error:
            log.warning("%s cannot be read (%s): the data is prepared again", place, error)
    with _warnings() as said:
        found = _prepared(cfg, source)
    if len(found.interactions.items) >= MANY:
        try:
            with atomic_folder(place) as folder:
                _write(folder, found, said, key)
        except OSError as error:
            if not place.is_dir():  # else another process of the job was faster
                log.warning("%s cannot be written (%s): the next run prepares the data again", place, error)
    return found


def _prepared(cfg: DictConfig, source: Dataset) -> Filtered:
    raw = load_checked(source)
    raw = replace(raw, items=bounded(raw.items))
    filters = Filters(**dict(cfg.dataset.filters))
    built = build_interactions(raw, filters, max_users=cfg.dataset.max_users, seed=cfg.protocol_seed)
    return Filtered(raw.name, raw.skipped, *built)


@contextmanager
def _warnings() -> Iterator[list[str]]:
    """The warnings about the data that this block gives, so that they can be given again."""
    said: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger(data.__name__)
    logger.addHandler(handler)
    try:
        yield said
    finally:
        logger.removeHandler(handler)


def _write(folder: Path, found: Filtered, said: list[str], key: dict[str, Any]) -> None:
    arrays = {field.name: getattr(found.interactions, field.name) for field in fields(FilteredInteractions)}
    pq.write_table(pa.table({"ids": arrays.pop("user_ids").tolist()}), folder / "users.parquet")
    texts = {name: pa.array(getattr(found.items, name).tolist(), pa.string()) for name in _TEXTS}
    pq.write_table(pa.table(texts), folder / "items.parquet")
    arrays["kept"] = found.items.kept
    for name, array in arrays.items():
        if array is not None:
            np.save(folder / f"{name}.npy", array)
    described = {
        "key": key,
        "name": found.name,
        "skipped": found.skipped,
        "funnel": {"dataset": found.funnel.dataset, "steps": found.funnel.steps, "notes": found.funnel.notes},
        "warnings": said,
        "arrays": [name for name, array in arrays.items() if array is not None],
    }
    (folder / "data.json").write_text(json.dumps(described, default=str), encoding="utf-8")


def _read(place: Path, key: dict[str, Any]) -> Filtered:
    described = json.loads((place / "data.json").read_text(encoding="utf-8"))
    if described["key"] != json.loads(json.dumps(key, default=str)):
        raise ValueError("it was made from other data")
    arrays = {
        name: np.load(place / f"{name}.npy", mmap_mode="r").view(np.ndarray) for name in described["arrays"]
    }
    kept = arrays.pop("kept", None)
    items = pq.read_table(place / "items.parquet")
    users = pq.read_table(place / "users.parquet")
    texts = {name: np.array(items.column(name).to_pylist(), dtype=object) for name in _TEXTS}
    found = Filtered(
        described["name"],
        described["skipped"],
        Items(texts["ids"], texts["titles"], texts["details"], kept=kept),
        FilteredInteractions(np.array(users.column("ids").to_pylist(), dtype=object), **arrays),
        Funnel(**described["funnel"]),
    )
    for warning in described["warnings"]:
        log.warning("%s", warning)
    return found
