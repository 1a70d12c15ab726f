from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from scribe import ITEMS, Scribe

from mllmrec.cot.base import CotKey
from mllmrec.cot.pipeline import CotPipeline
from mllmrec.cot.wording import load_cot_wording
from mllmrec.reasoners.base import Reasoner


@pytest.fixture
def keys() -> list[CotKey]:
    """Three users u with the items u, u + 1, u + 2 and the target u + 3."""
    return [
        CotKey(f"u{user}", tuple(str(user + place) for place in range(3)), str(user + 3), f"u{user}:3")
        for user in range(3)
    ]


@pytest.fixture
def make_pipeline(tmp_path: Path) -> Callable[..., CotPipeline]:
    def make(draft: Reasoner | None = None, refine: Reasoner | None = None, items=ITEMS) -> CotPipeline:
        return CotPipeline(
            items,
            "lamp",
            (draft or Scribe("draft"), load_cot_wording("cot.draft_wording", "draft")),
            (refine or Scribe("refinement"), load_cot_wording("cot.refine_wording", "refine")),
            tmp_path / "cot",
        )

    return make
