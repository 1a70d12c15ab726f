"""Builds reasoning from a chat server. Run as a program, each build has its own child process, which may be killed.

The program reads one JSON line of settings per build, and prints the child's id at its start and its status at its end.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

from mllmrec.cache import write_json
from mllmrec.cot import Confident, CotKey
from mllmrec.cot.pipeline import CotPipeline
from mllmrec.cot.wording import load_cot_wording
from mllmrec.reasoners.base import HistoryItem
from mllmrec.reasoners.openai import OpenAIReasoner

ITEMS = {f"i{n}": HistoryItem(f"i{n}", f"Lamp {n}", f"red lamp of kind {n}", None) for n in range(50)}


def samples(count: int) -> list[CotKey]:
    """`count` samples (at most 2,000), no two with the same history."""
    return [
        CotKey(f"u{n}", (f"i{n % 50}", f"i{n // 50}", f"i{(n + 7) % 50}"), f"i{(n + 9) % 50}", f"u{n}/3")
        for n in range(count)
    ]


def build(url: str, cache: str, count: int, **settings: object) -> Confident:
    """Ask the server at ``url`` for drafts and for refinements of the drafts."""
    reasoner = OpenAIReasoner("model", base_url=url, **settings)
    pipeline = CotPipeline(
        ITEMS,
        "lamp",
        (reasoner, load_cot_wording("cot.draft_wording", "draft")),
        (reasoner, load_cot_wording("cot.refine_wording", "refine")),
        Path(cache),
    )
    policy = Confident(pipeline, threshold=0.0, top_share=None)
    policy.make(samples(count))
    return policy


def main() -> None:
    """Start one child per line of input."""
    for line in sys.stdin:
        settings = json.loads(line)
        child = os.fork()
        if child == 0:
            os.dup2(2, 1)  # keep progress out of the answers
            records = Path(settings.pop("records"))
            policy = build(**settings)
            write_json(records, {key.sample_id: asdict(record) for key, record in policy.records.items()})
            os._exit(0)
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
