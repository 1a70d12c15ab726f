"""Rankings that an earlier attempt at a job finished, so that another attempt need not rank the same users again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from mllmrec.cache import write_json
from mllmrec.evaluation.evaluate import Evaluation
from mllmrec.evaluation.records import stages_in


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
