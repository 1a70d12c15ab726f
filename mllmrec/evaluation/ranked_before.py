"""Rankings that an earlier attempt at a job finished, or another job, so that the same users need not be ranked again."""

from __future__ import annotations

import json
import typing
from pathlib import Path

import numpy as np

from mllmrec.cache import write_json
from mllmrec.evaluation.evaluate import Evaluation
from mllmrec.evaluation.protocol import Protocol
from mllmrec.evaluation.reasoned import Shown
from mllmrec.evaluation.records import stages_in


class KeptRankings(typing.Protocol):
    """Rankings of other jobs; `mllmrec.store.rankings.RankingStore` keeps them in a folder."""

    def restore(
        self, name: str, protocol: Protocol, per_user: Path, shown: Shown = "own"
    ) -> Evaluation | None:
        """Add a kept ranking to a run's ``per_user.parquet``, as the phase ``name``; None if it is not kept."""

    def keep(
        self, name: str, protocol: Protocol, result: Evaluation, per_user: Path, shown: Shown = "own"
    ) -> None:
        """Keep a ranking for other jobs."""


class RankedBefore:
    """The results of finished rankings under one protocol, each in a file of its own.

    Args:
        folder: their folder.
        per_user: the file with the rankings themselves; a result without them does not count.
    """

    def __init__(self, folder: Path, per_user: Path) -> None:
        self.folder, self.per_user = folder, per_user

    def read(self, name: str) -> Evaluation | None:
        """The result of the ranking ``name``; None if it is not there, or not whole."""
        try:
            found = json.loads((self.folder / f"{name}.json").read_text(encoding="utf-8"))
            ranks = np.array([np.nan if rank is None else rank for rank in found["ranks"]], dtype=np.float64)
            result = Evaluation(ranks, dict(found["validity"]), int(found["generated_tokens"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return result if name in stages_in(self.per_user) else None

    def keep(self, name: str, result: Evaluation) -> None:
        """Add a result."""
        ranks = [None if np.isnan(rank) else int(rank) for rank in result.ranks]
        content = {
            "ranks": ranks,
            "validity": {kind: float(share) for kind, share in result.validity.items()},
            "generated_tokens": int(result.generated_tokens),
        }
        write_json(self.folder / f"{name}.json", content)
