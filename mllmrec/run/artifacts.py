"""What a run can hand to a service that keeps files: its candidate sets, its rankings and its weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pyarrow.parquet as pq

from mllmrec.run.folder import RunFolder


@dataclass(frozen=True)
class Artifact:
    """Files that belong together."""

    name: str
    kind: str  # candidates, rankings or model
    files: dict[str, Path]  # name inside it -> file


@contextmanager
def artifacts_of(folder: RunFolder) -> Iterator[list[Artifact]]:
    """The artefacts of a finished job; temporary files among them last until the block ends.

    The candidates are named by their hash, so runs that rank the same candidates share one artefact. They are read back from
    the rankings, and left out if these were cut (``eval.keep_top``). Weights are the adapters, or the model of a run without
    any.
    """
    found = []
    with TemporaryDirectory() as temporary:
        if folder.per_user_path.is_file():
            table = candidate_sets(folder.per_user_path)
            known = folder.metrics()["protocol"].get("candidates_hash")
            if table is not None and known is not None:
                path = Path(temporary) / "candidates.parquet"
                pq.write_table(table, path, compression="zstd")
                found.append(Artifact(f"candidates-{known[:16]}", "candidates", {path.name: path}))
            found.append(Artifact("rankings", "rankings", {folder.per_user_path.name: folder.per_user_path}))
        weights = next((path for path in (folder.adapters_path, folder.model_path) if path.is_dir()), None)
        if weights is not None:
            files = {
                path.relative_to(folder.path).as_posix(): path
                for path in sorted(weights.rglob("*"))
                if path.is_file()
            }
            if files:
                found.append(Artifact("model", "model", files))
        yield found


def candidate_sets(per_user: Path) -> pa.Table | None:
    """The candidates of each user, in the order of their ids; None if no phase's rankings hold all of them.

    Args:
        per_user: a `per_user.parquet`.

    Returns:
        Columns ``user_id``, ``target_id`` and ``candidates``, a list of item ids that holds the target.
    """
    columns = ["stage", "user_id", "target_id", "ranking", "num_candidates"]
    rows = pq.read_table(per_user, columns=columns).to_pylist()
    for stage in dict.fromkeys(row["stage"] for row in rows):
        own = [row for row in rows if row["stage"] == stage]
        if all(len(row["ranking"]) == row["num_candidates"] for row in own):
            return pa.table(
                {
                    "user_id": [row["user_id"] for row in own],
                    "target_id": [row["target_id"] for row in own],
                    "candidates": [sorted(row["ranking"]) for row in own],
                }
            )
    return None
