"""The results of a phase for each test user (`per_user.parquet`), and how often its answers were no proper ranking."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mllmrec.cache import atomic_path
from mllmrec.errors import UserError, choices
from mllmrec.errors.disk import refusing_damage

SCHEMA = pa.schema(
    [
        ("stage", pa.string()),
        ("user_id", pa.string()),
        ("target_id", pa.string()),
        ("rank", pa.int64()),
        ("ranking", pa.list_(pa.string())),
        ("num_candidates", pa.int64()),
        ("text", pa.string()),
        ("slices", pa.list_(pa.string())),
        ("scores", pa.list_(pa.float32())),
    ]
)
_LATER = ("slices", "scores")  # columns that files of earlier versions lack

# Users of a row group. Each has a description in the file, so a million of them would be read for minutes.
_TOGETHER = 4096


@dataclass(frozen=True)
class StageRecords:
    """Records of U users of one phase, by column; entry ``u`` of every column belongs to user ``u``."""

    user_ids: Sequence[str] | np.ndarray  # (U,)
    target_ids: Sequence[str] | np.ndarray  # (U,)
    ranks: np.ndarray  # (U,) float, 1-based; nan when the target was not ranked
    rankings: Sequence[Sequence[str]]  # U lists of item ids, best first
    num_candidates: np.ndarray  # (U,) int
    # U generated answers, or what was written before the answer; None if nothing was.
    texts: Sequence[str | None] | None = None
    slices: Sequence[Sequence[str]] | None = (
        None  # names of each user's slices (`evaluation.slices`), when known
    )
    # U rows, one number for each item of the user's ranking, greater is better; None if the way to rank has none.
    scores: Sequence[Sequence[float] | np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self.user_ids)


class StageWriter:
    """Appends one phase's records, `_TOGETHER` users or more to a row group; `write_stage` makes it."""

    def __init__(self, writer: pq.ParquetWriter, stage: str, keep_top: int) -> None:
        self._writer = writer
        self._waiting: list[pa.Table] = []
        self.stage = stage
        self.keep_top = keep_top

    def append(self, records: StageRecords) -> None:
        """Write a batch of users; rankings are cut to the best ``keep_top`` ids, ranks are kept as they are.

        Raises:
            ValueError: columns differ in length, or a rank is not a whole number from 1.
        """
        ranks = np.asarray(records.ranks, dtype=np.float64)
        ranked = ~np.isnan(ranks)
        if (ranks[ranked] < 1).any() or (ranks[ranked] % 1 != 0).any():
            raise ValueError(
                f"ranks of phase {self.stage} must be whole numbers from 1, or nan when not ranked"
            )
        num_users = len(records)
        columns = [
            pa.array([self.stage] * num_users, pa.string()),
            pa.array([str(user) for user in records.user_ids], pa.string()),
            pa.array([str(item) for item in records.target_ids], pa.string()),
            pa.array(np.where(ranked, ranks, 0).astype(np.int64), mask=~ranked),
            pa.array(
                [[str(item) for item in ranking[: self.keep_top]] for ranking in records.rankings],
                pa.list_(pa.string()),
            ),
            pa.array(np.asarray(records.num_candidates, dtype=np.int64)),
            pa.array([None] * num_users if records.texts is None else list(records.texts), pa.string()),
            pa.array(
                [None] * num_users if records.slices is None else [list(names) for names in records.slices],
                pa.list_(pa.string()),
            ),
            pa.array(
                [None] * num_users
                if records.scores is None
                else [np.asarray(own[: self.keep_top], dtype=np.float32) for own in records.scores],
                pa.list_(pa.float32()),
            ),
        ]
        self._waiting.append(pa.Table.from_arrays(columns, schema=SCHEMA))
        if sum(table.num_rows for table in self._waiting) >= _TOGETHER:
            self.flush()

    def take(self, table: pa.Table, slices: Sequence[Sequence[str]]) -> None:
        """Write users whose rows another run wrote, under this phase's name and with their slices in this run."""
        own = {
            "stage": pa.array([self.stage] * len(table), pa.string()),
            "slices": pa.array([list(names) for names in slices], pa.list_(pa.string())),
        }
        for start in range(0, len(table), _TOGETHER):
            rows = slice(start, start + _TOGETHER)
            part = {name: own.get(name, table[name])[rows] for name in SCHEMA.names}
            self._writer.write_table(pa.table(part, schema=SCHEMA), row_group_size=_TOGETHER)

    def flush(self) -> None:
        """Write the users that wait for others."""
        if self._waiting:
            table = pa.concat_tables(self._waiting)
            self._writer.write_table(table, row_group_size=table.num_rows)
            self._waiting = []


@contextmanager
def write_stage(path: Path, stage: str, keep_top: int = 100) -> Iterator[StageWriter]:
    """Add a phase to ``per_user.parquet``: on success the file holds the whole phase, on failure it is unchanged.

    The other phases are copied one row group at a time. Rows that an earlier attempt left for this phase are
    replaced, so a resumed run never counts a user twice.
    """
    with atomic_path(path) as temporary, pq.ParquetWriter(temporary, SCHEMA, compression="zstd") as writer:
        if path.exists():
            for table in _row_groups(path, None):
                others = table.filter(pc.not_equal(table["stage"], stage))
                if others.num_rows:
                    writer.write_table(_with_all_columns(others))
        stage_writer = StageWriter(writer, stage, keep_top)
        yield stage_writer
        stage_writer.flush()


def stage_table(path: Path, stage: str) -> pa.Table:
    """The rows of one phase of a ``per_user.parquet``, with all of `SCHEMA`'s columns."""
    with refusing_damage(path):
        return _with_all_columns(pq.read_table(path, filters=[("stage", "=", stage)]))


def write_stage_table(path: Path, stage: str, table: pa.Table, slices: Sequence[Sequence[str]]) -> None:
    """Add a phase to ``per_user.parquet``, as `write_stage` does, from rows that another run wrote.

    Args:
        path: the file.
        stage: the phase's name here.
        table: U rows of `stage_table`.
        slices: U lists, the names of each user's slices in this run.
    """
    with write_stage(path, stage) as writer:
        writer.take(table, slices)


def _row_groups(path: Path, columns: list[str] | None) -> Iterator[pa.Table]:
    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            yield file.read_row_group(group, columns=columns)


def stages_in(path: Path) -> list[str]:
    """The phases of a ``per_user.parquet``, in the order in which they were written."""
    found: dict[str, None] = {}
    with refusing_damage(path):
        for table in _row_groups(path, ["stage"]):
            found.update(dict.fromkeys(table["stage"].unique().to_pylist()))
    return list(found)


def read_stage(path: Path, stage: str) -> StageRecords:
    """One phase of a ``per_user.parquet``.

    Raises:
        UserError: the file is missing or damaged, or does not hold the phase.
    """
    if not path.exists():
        raise UserError(f"{path} is missing: name the folder of a run that evaluated at least one phase")
    with refusing_damage(path):
        table = pq.read_table(path, filters=[("stage", "=", stage)])
        # Of other columns pyarrow says which is missing, and the file counts as damaged.
        table = table.select(
            [name for name in SCHEMA.names if name not in _LATER or name in table.column_names]
        )
    if table.num_rows == 0:
        raise UserError(f"{path} has no phase {stage!r}; it has {choices(stages_in(path)) or 'none'}")
    return StageRecords(
        # Not as numpy's own strings, which drop zero characters at the end of an id.
        user_ids=np.asarray(table["user_id"].to_pylist(), dtype=object),
        target_ids=np.asarray(table["target_id"].to_pylist(), dtype=object),
        ranks=np.array(
            [np.nan if rank is None else rank for rank in table["rank"].to_pylist()], dtype=np.float64
        ),
        rankings=table["ranking"].to_pylist(),
        num_candidates=table["num_candidates"].to_numpy(),
        texts=None if table["text"].null_count == table.num_rows else table["text"].to_pylist(),
        slices=_lists(table, "slices"),
        scores=_lists(table, "scores"),
    )


def _lists(table: pa.Table, name: str) -> list[list[Any]] | None:
    if name not in table.column_names or table[name].null_count == table.num_rows:
        return None
    return table[name].to_pylist()


def _with_all_columns(table: pa.Table) -> pa.Table:
    """The rows of an earlier version's file, with its missing columns empty."""
    for name in _LATER:
        if name not in table.column_names:
            table = table.append_column(SCHEMA.field(name), pa.nulls(len(table), SCHEMA.field(name).type))
    return table


def joined_ranks(a: StageRecords, b: StageRecords) -> tuple[np.ndarray, np.ndarray]:
    """The ranks of two phases or models, joined by user and target id, in the order of ``a``.

    A user who came back to an item may have it as target several times; such rows are paired in order.

    Returns:
        Two (U,) float arrays.

    Raises:
        UserError: the two were not evaluated on the same users and targets.
    """
    keys_a, keys_b = (list(zip(map(str, c.user_ids), map(str, c.target_ids), strict=True)) for c in (a, b))
    often = {key: count for key, count in Counter(keys_a).items() if count > 1}
    if often != {key: count for key, count in Counter(keys_b).items() if count > 1}:
        raise UserError(
            "a user has the same target twice in one of the two results but not in the other: they cannot be paired"
        )
    rows_a = _numbered(keys_a)
    row_of_b = {key: row for row, key in enumerate(_numbered(keys_b))}
    unmatched = [key[0] for key in rows_a if key not in row_of_b]
    if unmatched or len(keys_a) != len(b):
        example = f", for example user {unmatched[0]}" if unmatched else ""
        raise UserError(
            f"{len(keys_a)} and {len(b)} users, {len(unmatched)} of the first without a match{example}: "
            "compare runs on the same dataset, split and filters"
        )
    return a.ranks, b.ranks[[row_of_b[key] for key in rows_a]]


def _numbered(keys: list[tuple[str, str]]) -> list[tuple[str, str, int]]:
    """Each key with the number of equal keys before it."""
    seen: Counter[tuple[str, str]] = Counter()
    numbered = []
    for key in keys:
        numbered.append((*key, seen[key]))
        seen[key] += 1
    return numbered


@dataclass(frozen=True)
class CleanRanking:
    """A listed answer without its faults, and the counts of those faults."""

    item_ids: list[str]  # candidates only, each once, in the order listed
    duplicates: int
    off_candidate: int


def clean_ranking(listed: Iterable[str], candidates: Iterable[str]) -> CleanRanking:
    """Keep the first mention of each candidate; a duplicate or an id that is not a candidate takes no rank.

    The target plays no part, and a list that is too short is not filled up.
    """
    allowed = set(candidates)
    kept: dict[str, None] = {}
    duplicates = off_candidate = 0
    for item in listed:
        if item not in allowed:
            off_candidate += 1
        elif item in kept:
            duplicates += 1
        else:
            kept[item] = None
    return CleanRanking(list(kept), duplicates, off_candidate)


def validity_rates(
    listed: np.ndarray,
    wanted: np.ndarray | int,
    duplicates: np.ndarray,
    off_candidate: np.ndarray,
    top_position: np.ndarray,
) -> dict[str, float]:
    """How often answers were no proper ranking, as shares of the U users.

    Args:
        listed: (U,) number of distinct candidates in the cleaned answer.
        wanted: (U,) or one number: how many were asked for.
        duplicates: (U,) number of repeated mentions in the answer.
        off_candidate: (U,) number of mentions of ids that are not candidates.
        top_position: (U,) 0-based place of the top-ranked item in the candidate list as shown; -1 if none is ranked.

    Returns:
        ``invalid`` (nothing in the answer could be read as a candidate), ``duplicate`` and ``off_candidate`` (at
        least one such mention), ``short`` (fewer candidates than asked for, including the invalid answers),
        ``first_position`` (the candidate shown first is ranked first: 1 / C by chance).

    Raises:
        UserError: there is no user.
    """
    if len(listed) == 0:
        raise UserError(
            "no user to evaluate: the split is empty; loosen the dataset's filters or choose another split"
        )
    return {
        "invalid": float(np.mean(np.asarray(listed) == 0)),
        "duplicate": float(np.mean(np.asarray(duplicates) > 0)),
        "off_candidate": float(np.mean(np.asarray(off_candidate) > 0)),
        "short": float(np.mean(np.asarray(listed) < wanted)),
        "first_position": float(np.mean(np.asarray(top_position) == 0)),
    }
