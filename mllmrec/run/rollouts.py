"""`rollouts.parquet`: the sampled completions of a run, with their rewards."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mllmrec.cache import temporary_beside
from mllmrec.errors import UserError
from mllmrec.errors.disk import about, refusing_damage

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

    Use it as a context manager. The complete file appears when the block ends, even by an exception, because the samples
    before a failure help to explain it. It keeps an earlier attempt's rows before ``from_step`` (resume).
    """

    def __init__(self, path: Path, from_step: int = 0) -> None:
        self.path = path
        self.from_step = from_step

    def __enter__(self) -> RolloutWriter:
        self._temporary = temporary_beside(self.path)
        self._writer = pq.ParquetWriter(self._temporary, ROLLOUT_SCHEMA, compression="zstd")
        if self.path.exists() and self.from_step > 0:
            table = pq.read_table(self.path)
            self._writer.write_table(table.filter(pc.less(table["step"], self.from_step)))
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
        with about(self.path):
            self._writer.write_table(pa.Table.from_pylist(rows, schema=ROLLOUT_SCHEMA))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with about(self.path):
            try:
                self._writer.close()
                os.replace(self._temporary, self.path)
            finally:
                self._temporary.unlink(missing_ok=True)


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
