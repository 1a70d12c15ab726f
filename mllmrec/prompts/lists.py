"""Which candidates a prompt lists: all of them, none, or some, in lists as long as those of training prompts.

A policy chooses best from as many candidates as its training prompts list. Other numbers of candidates are ranked
in several prompts of that length: ``groups``.
"""

from __future__ import annotations

import math
from typing import Literal, cast

import numpy as np

from mllmrec.errors import UserError

Listing = Literal["all", "groups", "none"]

# Rankings that give every listed candidate a score of its own, which other lists can be compared with.
SCORED = ("likelihood", "constrained")
# Lists that each candidate stands in. In one alone, the scores of two lists have nothing in common to be measured by.
ROUNDS = 2


def listing_of(asked: str, ranking: str, candidates: int | None, length: int) -> Listing:
    """How prompts list the candidates that are ranked.

    Args:
        asked: ``eval.listing``.
        ranking: ``eval.ranking``.
        candidates: C, the target included; None for the whole catalogue.
        length: L, candidates that a training prompt lists.

    Returns:
        ``asked``, with ``auto`` decided. Groups of C candidates are one list: all of them.
    """
    if candidates == length and asked != "none":
        return "all"
    if asked != "auto":
        return cast(Listing, asked)
    if candidates is None:
        return "none"
    return "groups" if ranking in SCORED else "all"


def num_lists(candidates: int, length: int) -> int:
    """How many lists of L items `draw_lists` makes of C candidates."""
    return ROUNDS * math.ceil(candidates / length) if candidates > length else 1


def draw_lists(
    candidates: np.ndarray, length: int, spare: np.ndarray, generator: np.random.Generator
) -> list[np.ndarray]:
    """Lists of L items, in the order in which prompts show them.

    C candidates are dealt out at random, `ROUNDS` times. Where the last list of a round is short, candidates of the
    round's other lists fill it up; fewer than L candidates stand in one list, filled up with spare items. Which of
    them is the target is not known here, so its lists are like any other's.

    Args:
        candidates: (C,) item codes.
        length: L.
        spare: item codes that are no candidates, at least L - C of them.
        generator: of the draw.

    Raises:
        UserError: too few spare items.
    """
    count = len(candidates)
    if len(spare) < length - count:
        raise UserError(
            f"{count} candidates and {len(spare)} other items do not fill a list of {length}, as in training: rank "
            f"{length} candidates or more, or list them as they are (eval.listing=all)"
        )
    if count <= length:
        fill = generator.choice(spare, length - count, replace=False)
        return [generator.permutation(np.concatenate([candidates, fill]))]
    lists = []
    for _ in range(ROUNDS):
        dealt = generator.permutation(candidates)
        whole, rest = np.split(dealt, [count - count % length])
        lists += np.split(whole, len(whole) // length)
        if len(rest):
            fill = generator.choice(whole, length - len(rest), replace=False)
            lists.append(generator.permutation(np.concatenate([rest, fill])))
    return lists
