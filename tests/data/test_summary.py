from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from mllmrec.data.base import Items, RawData, RawInteractions
from mllmrec.data.candidates import CandidateSampler, Catalogue
from mllmrec.data.filters import build_interactions
from mllmrec.data.splits import LeaveOneOut
from mllmrec.data.summary import length_statistics, summarise


def test_the_summary_counts_everything():
    # Users 0-3 watched items n..n+4, user 4 only item 0 (too short). Item 8 is untitled and unused.
    sequences = [[n, n + 1, n + 2, n + 3, n + 4] for n in range(4)] + [[0]]
    ids = np.array([f"i{n}" for n in range(9)])
    titles = np.array(["Same", "Same", *(f"title {n}" for n in range(2, 8)), ""])
    raw = RawData(
        "toy",
        Items(ids, titles, np.full(9, ""), {"i3": Path("i3.jpg")}),
        RawInteractions(
            np.array(["a", "b", "c", "d", "e"]),
            np.repeat(np.arange(5), [len(s) for s in sequences]).astype(np.int32),
            np.array([item for s in sequences for item in s], dtype=np.int32),
        ),
        {"unreadable images": 2},
    )
    items, interactions, funnel = build_interactions(raw, max_users=2, seed=0)
    splits = LeaveOneOut(windows="sliding")(interactions)
    source = CandidateSampler(2).bind(Catalogue(interactions, items), splits["train"])
    hashes = {name: source.freeze(part, name).hash for name, part in splits.items()}
    summary = json.loads(
        json.dumps(summarise(raw, items, interactions, funnel, splits, hashes, 3, "uniform"))
    )

    assert summary["whole"] == {"users": 5, "items": 8, "interactions": 21}  # as read
    assert (summary["used"]["users"], summary["used"]["interactions"]) == (2, 10)
    assert summary["catalogue"] == {
        "items": 9,
        "with_title": 8,
        "without_title": 1,
        "untitled_at_reading": 1,
        "with_image": 1,
        "without_image": 8,
        "repeated_titles": 2,
        "possible_negatives": int(items.offered.sum()),
    }
    # Users n and m, n < m, avoid items n to m + 4 and item 8, which nobody has.
    assert 7 <= items.offered.sum() <= 9
    assert summary["sequence_length"] == {"min": 5, "median": 5.0, "mean": 5.0, "p90": 5.0, "max": 5}
    # Five items: the training targets are the second and third.
    assert summary["samples"]["train"]["samples"] == 4
    assert summary["samples"]["train"]["users"] == 2
    assert summary["samples"]["train"]["history_length"]["mean"] == 1.5
    assert summary["samples"]["test"] == {
        "samples": 2,
        "users": 2,
        "users_left_out": 0,
        "targets_unseen_in_training": 2,
        "history_length": {"min": 4, "median": 4.0, "mean": 4.0, "p90": 4.0, "max": 4},
    }
    assert summary["skipped_at_reading"] == {"unreadable images": 2}
    assert summary["filters"]["dropped"]["min_length"] == {"users": 1, "items": 0, "interactions": 1}
    assert summary["filters"]["dropped"]["max_users"]["users"] == 2
    assert summary["candidates"] == {"num_candidates": 3, "negatives": "uniform", "hash": hashes}


def test_lengths_of_nothing_are_null():
    assert length_statistics(np.empty(0))["mean"] is None
