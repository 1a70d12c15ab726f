"""Results for parts of the ranked users: by their targets' popularity, by their histories' lengths, by images.

No slice depends on the ranked model: all models that are ranked on the same users, under the same
``prompt.history_length``, have the same slices. Three divisions are made:

- ``cold``, ``tail``, ``middle``, ``head``, by how often training sequences hold the target. A cold target is in none of
  them. Head and tail follow Abdollahpouri et al. 2021 (arXiv 2103.06364): the most popular items, which together have a
  fifth of the training interactions, and the least popular ones, which also have a fifth. Items that occur equally often
  are never parted: they belong where the middle of their interactions falls. The most popular items of all are always in
  the head, and the least popular ones in the tail, unless all occur equally often: then all are in the middle.
- ``short`` and ``long``, by how many items of history the prompts show: up to the median, and more than it. If the median
  is also the most that is shown, histories of that length are the long ones.
- ``image`` and ``no image``, by whether the target has one.

The last two divisions are left out if all users fall into one slice, which would only repeat the whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mllmrec.evaluation.intervals import bootstrap_intervals
from mllmrec.evaluation.metrics import mean_metrics

COLD, TAIL, MIDDLE, HEAD = "cold", "tail", "middle", "head"
EDGE = 0.2  # share of the training interactions that fall to the head, and to the tail
FEW = 20  # a slice of fewer users is flagged: its interval says little


@dataclass(frozen=True)
class Slice:
    """Some of the U ranked users."""

    name: str
    holds: str  # what these users have in common, in words
    members: np.ndarray  # (U,) bool


def popularity_groups(counts: np.ndarray) -> np.ndarray:
    """The slice of each item as a target: ``cold``, ``tail``, ``middle`` or ``head``.

    Args:
        counts: (I,) how often training sequences hold each item.

    Returns:
        (I,) str.
    """
    levels, place, sizes = np.unique(counts, return_inverse=True, return_counts=True)
    interactions = levels * sizes  # of each level, the least popular level first
    total = max(1, int(interactions.sum()))
    centres = (np.cumsum(interactions) - interactions / 2) / total
    groups = np.where(centres > 1 - EDGE, HEAD, np.where(centres < EDGE, TAIL, MIDDLE))
    met = np.flatnonzero(levels)
    if len(met) > 1:
        groups[met[0]], groups[met[-1]] = TAIL, HEAD
    return np.where(levels == 0, COLD, groups)[place]


def popularity_slices(counts: np.ndarray, targets: np.ndarray) -> list[Slice]:
    """The users by their targets' popularity in training; slices without users are left out.

    Args:
        counts: (I,) how often training sequences hold each item.
        targets: (U,) item codes.
    """
    by_item = popularity_groups(counts)
    slices = []
    for name in (COLD, TAIL, MIDDLE, HEAD):
        members = by_item[targets] == name
        if not members.any():
            continue
        of_group = counts[by_item == name]
        holds = (
            "targets in no training sequence"
            if name == COLD
            else f"targets with a training count of {_range(int(of_group.min()), int(of_group.max()))}"
        )
        slices.append(Slice(name, holds, members))
    return slices


def history_slices(lengths: np.ndarray) -> list[Slice]:
    """The users by (U,) numbers of shown items of history, ``short`` and ``long``; none if all show equally many."""
    longest, median = int(lengths.max()), float(np.median(lengths))
    short = lengths <= median if longest > median else lengths < longest
    if not short.any():
        return []
    return [
        Slice(name, f"histories that show {_range(int(some.min()), int(some.max()))} items", members)
        for name, members in (("short", short), ("long", ~short))
        for some in (lengths[members],)
    ]


def image_slices(pictured: np.ndarray) -> list[Slice]:
    """The users by (U,) bool, whether the target has an image; none if all or no targets have one."""
    if pictured.all() or not pictured.any():
        return []
    return [
        Slice("image", "targets with an image", pictured),
        Slice("no image", "targets without an image", ~pictured),
    ]


def names_by_user(slices: Sequence[Slice], count: int) -> list[list[str]]:
    """The names of each of ``count`` users' slices. Users in the same slices share a list."""
    masks = np.zeros(count, dtype=np.int64)
    for place, one in enumerate(slices):
        masks |= one.members.astype(np.int64) << place
    kinds, kind_of = np.unique(masks, return_inverse=True)
    names = [[one.name for place, one in enumerate(slices) if mask >> place & 1] for mask in kinds.tolist()]
    return [names[kind] for kind in kind_of.tolist()]


def sliced(
    per_user: Mapping[str, np.ndarray], slices: Sequence[Slice], seed: int, resamples: int
) -> dict[str, dict[str, Any]]:
    """The results in each slice.

    Args:
        per_user: metric name -> (U,), users in the order of the slices.
        slices: those of these users.
        seed: the protocol's seed.
        resamples: bootstrap samples behind each 95 % interval.

    Returns:
        Slice name -> ``holds``, ``users``, ``few`` (fewer than `FEW` users), ``metrics``, and ``intervals`` (empty for a
        single user).
    """
    found: dict[str, dict[str, Any]] = {}
    for one in slices:
        part = {name: values[one.members] for name, values in per_user.items()}
        users = int(one.members.sum())
        found[one.name] = {
            "holds": one.holds,
            "users": users,
            "few": users < FEW,
            "metrics": mean_metrics(part),
            "intervals": bootstrap_intervals(part, seed, resamples) if users > 1 else {},
        }
    return found


def _range(low: int, high: int) -> str:
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
