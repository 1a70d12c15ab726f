"""`rollouts.parquet`: the sampled completions of a run, with their rewards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mllmrec.cache import atomic_path
from mllmrec.errors import UserError
from mllmrec.errors.disk import refusing_damage

ROLLOUT_SCHEMA = pa.schema(
    [
        ("step", pa.int64()),
        ("prompt_id", pa.string()),
        ("completion", pa.string()),
        ("reward", pa.float64()),
        ("parts", pa.map_(pa.string(), pa.float64())),
        ("advantage", pa.float64()),
    ]
)


@dataclass(frozen=True)
class Rollout:
    """One sampled completion for people to read."""

    step: int
    prompt_id: str
    completion: str
    reward: float
    parts: Mapping[str, float]  # reward part -> its value before weighting
    advantage: float


class RolloutWriter:
    """Streams sampled rollouts to `rollouts.parquet`.

    Use it as a context manager. The file appears with `save` and when the block ends, even by an exception, because the
    samples before a failure help to explain it. It keeps an earlier attempt's rows before ``from_step`` (resume).
    """

    def __init__(self, path: Path, from_step: int = 0) -> None:
        self.path = path
        self.from_step = from_step
        self._tables: list[pa.Table] = []

    def __enter__(self) -> RolloutWriter:
        if self.path.exists() and self.from_step > 0:
            table = pq.read_table(self.path)
            self._tables = [table.filter(pc.less(table["step"], self.from_step))]
        return self

    def append(self, rollouts: Sequence[Rollout]) -> None:
        """Write some rollouts as one row group."""
        rows = [
            {
                "step": rollout.step,
                "prompt_id": str(rollout.prompt_id),
                "completion": rollout.completion,
                "reward": float(rollout.reward),
                "parts": [(name, float(value)) for name, value in rollout.parts.items()],
                "advantage": float(rollout.advantage),
            }
            for rollout in rollouts
        ]
        self._tables.append(pa.Table.from_pylist(rows, schema=ROLLOUT_SCHEMA))

    def save(self) -> None:
        """Write the rows so far; an earlier file is replaced."""
        with (
            atomic_path(self.path) as temporary,
            pq.ParquetWriter(temporary, ROLLOUT_SCHEMA, compression="zstd") as writer,
        ):
            for table in self._tables:
                writer.write_table(table)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.save()


def read_rollouts(path: Path) -> list[Rollout]:
    """The rollouts of a finished run, in the order in which they were sampled.

    Raises:
        UserError: the file is missing or damaged.
    """
    if not path.exists():
        raise UserError(f"{path} is missing: the run has no GRPO phase, or none of its rollouts was sampled")
    with refusing_damage(path):
        rows = pq.read_table(path).to_pylist()
        return [Rollout(**{**row, "parts": dict(row["parts"])}) for row in rows]
