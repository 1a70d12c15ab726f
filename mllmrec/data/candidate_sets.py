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
        offsets = pa.array(np.arange(len(self) + 1, dtype=np.int32) * self.items.shape[1])
        table = pa.table(
            {
                "sample_id": pa.array(self.sample_ids.tolist(), pa.string()),
                "user_id": pa.array(self.user_ids.tolist(), pa.string()),
                "target_id": ids.take(pa.array(self.targets)),
                "candidates": pa.ListArray.from_arrays(offsets, ids.take(pa.array(self.items.ravel()))),
            }
        ).replace_schema_metadata({"hash": self.hash, "key": json.dumps(key, sort_keys=True, default=str)})
        with atomic_path(path) as temporary:
            pq.write_table(table, temporary)

    @classmethod
    def load(cls, path: Path, catalogue: Items) -> CandidateSet:
        """Read what `save` wrote and verify it.

        Raises:
            UnusableSetError: the file is missing or unreadable, its content does not match its hash, or it names
                items that the catalogue lacks.
        """
        try:
            table = pq.read_table(path, columns=["sample_id", "user_id", "target_id", "candidates"])
        except (OSError, pa.ArrowInvalid) as fault:
            raise UnusableSetError(
                f"cannot read candidates from {path}: {str(fault).splitlines()[0]}"
            ) from fault
        stored = (table.schema.metadata or {}).get(b"hash", b"").decode()
        ids = pa.array(catalogue.ids.tolist(), pa.string())
        listed = table.column("candidates").combine_chunks().flatten()
        targets = pc.index_in(table.column("target_id").combine_chunks(), value_set=ids)
        codes = pc.index_in(listed, value_set=ids)
        if codes.null_count or targets.null_count:
            unknown = listed.filter(codes.is_null())[0] if codes.null_count else "a target"
            raise UnusableSetError(f"{path}: item {unknown} is not in the catalogue")
        wrong = f"{path}: the candidates do not match their hash {stored or '(none)'}"
        widths = pc.unique(pc.list_value_length(table.column("candidates"))).to_pylist()
        if len(widths) != 1:
            raise UnusableSetError(wrong)
        items = codes.to_numpy(zero_copy_only=False).astype(np.int32).reshape(-1, widths[0])
        is_target = items == targets.to_numpy(zero_copy_only=False)[:, None]
        sample_ids, user_ids = (np.array(table.column(name).to_pylist()) for name in ("sample_id", "user_id"))
        read = cls.build(sample_ids, user_ids, items, is_target.argmax(axis=1), catalogue)
        if read.hash != stored or not (is_target.sum(axis=1) == 1).all():
            raise UnusableSetError(wrong)
        return read


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
