"""The contents of ``data.json``: the dataset, what was left out and why, and what is ranked."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from mllmrec.data.base import Interactions, Items
from mllmrec.data.filters import count_repeated_titles
from mllmrec.data.funnel import Funnel
from mllmrec.data.splits import Samples, training_counts


class Loaded(Protocol):
    """What a loader found, by name: `RawData`, or what is known of it later."""

    @property
    def name(self) -> str:
        """The dataset's name."""

    @property
    def skipped(self) -> dict[str, int]:
        """Reason -> rows, files or images left out at reading."""


def summarise(
    raw: Loaded,
    items: Items,
    interactions: Interactions,
    funnel: Funnel,
    samples: dict[str, Samples],
    candidate_hashes: dict[str, str],
    num_candidates: int | str,
    weighting: str,
) -> dict[str, Any]:
    """Counts as plain JSON values.

    Args:
        raw: what the loader returned; its name and its skipped counts are used.
        items, interactions, funnel: from `build_interactions`.
        samples: per split, from a split class.
        candidate_hashes: per split, the hash of the frozen set or of the full-catalogue protocol.
        num_candidates: C, or ``"full"``.
        weighting: how the negatives are drawn.
    """
    trained = training_counts(samples["train"], len(items))
    untitled = funnel.notes["untitled_items"]
    kept_untitled = 0 if "untitled" in funnel.dropped else count_placeholders(items)
    return {
        "dataset": raw.name,
        "whole": funnel.whole,
        "used": {
            "users": len(set(interactions.user_ids.tolist())),
            "items": int(np.count_nonzero(np.bincount(interactions.items))),
            "interactions": len(interactions.items),
        },
        "catalogue": {
            "items": len(items),
            "with_title": len(items) - kept_untitled,
            "without_title": kept_untitled,
            "untitled_at_reading": untitled,
            "with_image": len(items.images),
            "without_image": len(items) - len(items.images),
            "repeated_titles": count_repeated_titles(items),
            "possible_negatives": int(np.count_nonzero(items.offered)),
        },
        "sequence_length": length_statistics(np.diff(interactions.offsets)),
        "samples": {
            name: {
                "samples": len(part),
                "users": int(np.count_nonzero(np.bincount(part.users))),
                "users_left_out": part.left_out,
                "targets_unseen_in_training": int(np.count_nonzero(trained[part.targets] == 0)),
                "history_length": length_statistics(part.history_lengths),
            }
            for name, part in samples.items()
        },
        "skipped_at_reading": dict(raw.skipped),
        "filters": funnel.to_json(),
        "candidates": {
            "num_candidates": num_candidates,
            "negatives": weighting,
            "hash": dict(candidate_hashes),
        },
    }


def length_statistics(lengths: np.ndarray) -> dict[str, float | int | None]:
    """Minimum, median, mean, 90 % quantile and maximum; all None if there are no lengths."""
    if len(lengths) == 0:
        return dict.fromkeys(("min", "median", "mean", "p90", "max"))
    return {
        "min": int(lengths.min()),
        "median": float(np.median(lengths)),
        "mean": round(float(lengths.mean()), 4),
        "p90": float(np.quantile(lengths, 0.9)),
        "max": int(lengths.max()),
    }


def count_placeholders(items: Items) -> int:
    """Number of items that have a placeholder title."""
    return int((items.titles == np.char.add("Untitled ", items.ids)).sum())
