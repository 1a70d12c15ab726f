"""Frozen candidate sets: hashed by content, stored, and shared by every model on the same dataset."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mllmrec.cache import atomic_path, fingerprint
from mllmrec.data.base import Items
from mllmrec.data.splits import Samples

log = logging.getLogger(__name__)

_TOGETHER = 1 << 16  # samples written and read at once; bounds memory
_SCHEMA = pa.schema(
    [
        ("sample_id", pa.string()),
        ("user_id", pa.string()),
        ("target_id", pa.string()),
        ("candidates", pa.list_(pa.string())),
    ]
)


class UnusableSetError(Exception):
    """Why a stored candidate set cannot be used; the message names the file or the sample."""


@dataclass(frozen=True)
class CandidateSet:
    """The candidates of S samples, C each. Their order carries no information.

    `hash` covers the user ids, target ids and candidate ids in their order (ids, not codes). It does not depend on
    the order of the samples.
    """

    sample_ids: np.ndarray  # (S,) str, unique
    user_ids: np.ndarray  # (S,) str
    items: np.ndarray  # (S, C) int32, index into Items
    target_column: np.ndarray  # (S,) int64: items[s, target_column[s]] is the target
    hash: str

    @classmethod
    def build(
        cls,
        sample_ids: np.ndarray,
        user_ids: np.ndarray,
        items: np.ndarray,
        target_column: np.ndarray,
        catalogue: Items,
    ) -> CandidateSet:
        """Compute the hash and assemble."""
        ids = catalogue.ids.astype(object)
        targets = ids[items[np.arange(len(items)), target_column]]
        digests = [
            row_digest(user, target, ids[row].tolist())
            for user, target, row in zip(user_ids.tolist(), targets.tolist(), items, strict=True)
        ]
        return cls(sample_ids, user_ids, items, target_column, combine_digests(digests))

    def __len__(self) -> int:
        return len(self.items)

    @property
    def targets(self) -> np.ndarray:
        """(S,) int32 item codes."""
        return self.items[np.arange(len(self)), self.target_column]

    def rows_of(self, samples: Samples) -> np.ndarray:
        """(S',) rows of these samples, joined by id.

        Raises:
            UnusableSetError: a sample is not in this set, or has another user or another target here.
        """
        if self.sample_ids.tolist() == samples.sample_ids:
            rows = np.arange(len(self))
        else:
            row_of = {name: row for row, name in enumerate(self.sample_ids.tolist())}
            rows = np.array([row_of.get(name, -1) for name in samples.sample_ids], dtype=np.int64)
        same = rows >= 0
        same[same] = (self.user_ids[rows[same]] == samples.interactions.user_ids[samples.users[same]]) & (
            self.targets[rows[same]] == samples.targets[same]
        )
        if not same.all():
            name = samples.sample_ids[int(np.argmin(same))]
            raise UnusableSetError(f"sample {name} is not stored, or is stored with another user or target")
        return rows

    def save(self, path: Path, catalogue: Items, key: Any = None) -> None:
        """Write Parquet (sample_id, user_id, target_id, candidates) atomically, with hash and `key` (JSON) inside."""
        ids = pa.array(catalogue.ids.tolist(), pa.string())
        described = {"hash": self.hash, "key": json.dumps(key, sort_keys=True, default=str)}
        schema = _SCHEMA.with_metadata(described)
        with atomic_path(path) as temporary, pq.ParquetWriter(temporary, schema) as writer:
            for start in range(0, len(self), _TOGETHER):
                writer.write_table(self._rows(slice(start, start + _TOGETHER), ids).cast(schema))

    def _rows(self, block: slice, ids: pa.Array) -> pa.Table:
        items = self.items[block]
        offsets = pa.array(np.arange(len(items) + 1, dtype=np.int32) * items.shape[1])
        return pa.table(
            {
                "sample_id": pa.array(self.sample_ids[block].tolist(), pa.string()),
                "user_id": pa.array(self.user_ids[block].tolist(), pa.string()),
                "target_id": ids.take(pa.array(self.targets[block])),
                "candidates": pa.ListArray.from_arrays(offsets, ids.take(pa.array(items.ravel()))),
            }
        )

    @classmethod
    def load(cls, path: Path, catalogue: Items) -> CandidateSet:
        """Read what `save` wrote and verify it.

        Raises:
            UnusableSetError: the file is missing or unreadable, its content does not match its hash, or it names
                items that the catalogue lacks.
        """
        ids = pa.array(catalogue.ids.tolist(), pa.string())
        try:
            with pq.ParquetFile(path) as file:
                stored = (file.schema_arrow.metadata or {}).get(b"hash", b"").decode()
                columns = _SCHEMA.names
                groups = range(file.num_row_groups)
                parts = [_Group.of(file.read_row_group(group, columns), ids, path) for group in groups]
        except (OSError, pa.ArrowInvalid) as fault:
            raise UnusableSetError(
                f"cannot read candidates from {path}: {str(fault).splitlines()[0]}"
            ) from fault
        wrong = f"{path}: the candidates do not match their hash {stored or '(none)'}"
        if len({part.items.shape[1] for part in parts}) != 1:
            raise UnusableSetError(wrong)
        items = np.concatenate([part.items for part in parts])
        is_target = items == np.concatenate([part.targets for part in parts])[:, None]
        sample_ids, user_ids = (
            np.array([name for part in parts for name in getattr(part, column)], dtype=object)
            for column in ("sample_ids", "user_ids")
        )
        read = cls.build(sample_ids, user_ids, items, is_target.argmax(axis=1), catalogue)
        if read.hash != stored or not (is_target.sum(axis=1) == 1).all():
            raise UnusableSetError(wrong)
        return read


@dataclass(frozen=True)
class _Group:
    """Some of the rows of a stored set, with codes for the items."""

    sample_ids: list[str]
    user_ids: list[str]
    items: np.ndarray  # (S', C) int32
    targets: np.ndarray  # (S',) int32

    @classmethod
    def of(cls, table: pa.Table, ids: pa.Array, path: Path) -> _Group:
        lists = table.column("candidates").combine_chunks()
        codes = pc.index_in(lists.flatten(), value_set=ids)
        targets = pc.index_in(table.column("target_id").combine_chunks(), value_set=ids)
        if codes.null_count or targets.null_count:
            unknown = lists.flatten().filter(codes.is_null())[0] if codes.null_count else "a target"
            raise UnusableSetError(f"{path}: item {unknown} is not in the catalogue")
        widths = pc.unique(pc.list_value_length(lists)).to_pylist()
        if len(widths) != 1:
            raise UnusableSetError(f"{path}: the candidates of some samples are missing")
        return cls(
            table.column("sample_id").to_pylist(),
            table.column("user_id").to_pylist(),
            codes.to_numpy(zero_copy_only=False).astype(np.int32).reshape(-1, widths[0]),
            targets.to_numpy(zero_copy_only=False).astype(np.int32),
        )


def frozen(
    cache_dir: Path,
    key: dict[str, Any],
    build: Callable[[], CandidateSet],
    catalogue: Items,
    samples: Samples,
) -> CandidateSet:
    """The candidate set of this key: read from ``cache_dir``, or built and stored there.

    If a stored set is damaged or does not fit the samples, it is drawn again, with a warning. The key holds everything
    that determines the content, so the new draw equals the set that was stored.

    Args:
        cache_dir: the folder of stored sets.
        key: the content of everything that `build` reads, as JSON values.
        build: draws the set.
        catalogue: the items that the set names.
        samples: the samples that the set is for.
    """
    path = cache_dir / f"candidates-{fingerprint(key)}.parquet"
    if path.exists():
        try:
            candidates = CandidateSet.load(path, catalogue)
            candidates.rows_of(samples)
            inside = (pq.read_schema(path).metadata or {}).get(b"key", b"").decode()
            if inside == json.dumps(key, sort_keys=True, default=str):
                return candidates
            fault = f"{path} was made from other settings ({inside})"
        except UnusableSetError as error:
            fault = str(error)
        log.warning("%s: the candidates are drawn again", fault)
    candidates = build()
    candidates.save(path, catalogue, key)
    return candidates


def row_digest(user_id: str, target_id: str, candidate_ids: list[str]) -> bytes:
    """Content hash of one sample's candidates, 16 bytes."""
    text = json.dumps([user_id, target_id, candidate_ids], separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def combine_digests(digests: list[bytes]) -> str:
    """One hash (32 hexadecimal digits) over a set of row digests, in any order."""
    return hashlib.blake2b(b"".join(sorted(digests)), digest_size=16).hexdigest()
