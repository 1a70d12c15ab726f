"""Filters a loaded dataset. The rules apply in this order, and each one counts what it removes.

1. `min_rating`: rows rated lower, or not rated at all, are dropped.
2. Untitled items (empty or blank title) keep their rows and are called ``Untitled <item id>``, or are dropped from
   rows and catalogue.
3. Rows are ordered by time within a user. Equal timestamps stay in file order; without timestamps the file order is
   the time order. Of repeated user-item pairs the earliest is kept (``repeats="all"`` keeps them all).
4. `k_core`: users and items with fewer than k rows are removed, again and again until every one has k. The catalogue
   then holds only the items of the core, whatever `unused_items` says.
5. `min_length`: users with fewer rows are dropped, once. Items are not checked against `k_core` again.
6. `max_length`: users with more rows keep their latest rows.
7. `max_users`: a seeded subset of the users, chosen by a hash of the user id, so that it does not depend on the file
   order. Items that only other users interacted with stay in the catalogue, so that codes mean the same with any
   subset. But they are not offered: they are neither negatives nor recommendations. No sequence of the subset can
   have them as a target, so as negatives they would be easily told from the target. `k_core` is applied to the whole
   dataset, because a subset of sparse data has no core.

``unused_items="drop"`` removes items without a row in the whole dataset (after step 6). Titles that several items
share are counted and left as they are. If `min_rating` or `max_length` removes rows of a user who stays, the rows are
remembered beside the sequence, because the user did interact with those items. Where the publisher gives the split, a
user in both files has two sequences. They are filtered separately and count as one user. Targets that the publisher
names are filtered like other rows; a warning counts the lost targets of validation and test.
"""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from mllmrec.data.base import NO_TARGET, TEST, VALIDATION, Interactions, Items, RawData
from mllmrec.data.funnel import Funnel
from mllmrec.errors import UserError
from mllmrec.randomness import derive_seed

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Filters:
    """What is left out, by the rules at the top of this module.

    Raises:
        UserError: a setting is out of range.
    """

    min_rating: float | None = None  # None: ratings play no part
    k_core: int = 0  # 0: no core
    min_length: int = 2
    max_length: int | None = None  # None: whole sequences
    repeats: Literal["first", "all"] = "first"
    untitled: Literal["keep", "drop"] = "keep"
    unused_items: Literal["keep", "drop"] = "keep"

    def __post_init__(self) -> None:
        if self.k_core < 0 or self.min_length < 0:
            raise UserError(
                f"k_core and min_length must be at least 0; got {self.k_core} and {self.min_length}"
            )
        if self.max_length is not None and self.max_length < self.min_length:
            raise UserError(
                f"max_length={self.max_length} is below min_length={self.min_length}; raise it or set max_length=null"
            )
        for name, valid in (
            ("repeats", ("first", "all")),
            ("untitled", ("keep", "drop")),
            ("unused_items", ("keep", "drop")),
        ):
            if getattr(self, name) not in valid:
                raise UserError(f"{name}={getattr(self, name)!r} is not known; give {valid[0]} or {valid[1]}")


@dataclass(frozen=True)
class FilteredInteractions(Interactions):
    """Interactions, and the M pairs that filters took out of the sequences of users who stayed.

    Items that were rated too low or lie further back than `max_length` are not in the sequences. But their user has
    interacted with them, so they must not become negatives.
    """

    # (M,) each: index into user_ids, index into Items, and the index of the user's next interaction that was kept
    # (one past the user's sequence if none came after)
    hidden_users: np.ndarray = field(default_factory=lambda: np.empty(0, np.int32))
    hidden_items: np.ndarray = field(default_factory=lambda: np.empty(0, np.int32))
    hidden_positions: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))


@dataclass
class _Rows:
    """Columns that are filtered together, and what is needed to count their users and items."""

    users: np.ndarray
    items: np.ndarray
    timestamps: np.ndarray | None
    split: np.ndarray | None
    targets: np.ndarray | None
    people: np.ndarray | None
    num_users: int
    num_items: int
    ratings: np.ndarray | None
    places: np.ndarray  # place in the file; once sorted by time, place in that order
    hidden: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = field(default_factory=list)

    def sort_by_time(self) -> None:
        """Order by user, then time, then place in the file (both sorts are stable)."""
        if self.timestamps is None:
            self.select(np.argsort(self.users, kind="stable"))
        else:
            self.select(np.lexsort((self.timestamps, self.users)))
        self.places = np.arange(len(self.users))  # ascending from here on

    def hide(self, mask: np.ndarray) -> None:
        """Remove rows from the sequences, but remember which users interacted with which items, and when."""
        self.hidden.append((self.users[mask], self.items[mask], self.places[mask]))
        self.select(~mask)

    def select(self, chosen: np.ndarray) -> None:
        """Keep the rows of a mask, or reorder by an index."""
        for name in ("users", "items", "timestamps", "split", "targets", "ratings", "places"):
            column = getattr(self, name)
            if column is not None:
                setattr(self, name, column[chosen])

    def per_user(self) -> np.ndarray:
        return np.bincount(self.users, minlength=self.num_users)

    def per_item(self) -> np.ndarray:
        return np.bincount(self.items, minlength=self.num_items)

    def held_out(self) -> int:
        """How many targets of validation and test the publisher named that are still here."""
        return 0 if self.targets is None else int(np.isin(self.targets, (VALIDATION, TEST)).sum())

    def counts(self) -> dict[str, int]:
        active = np.flatnonzero(self.per_user())
        people = len(active) if self.people is None else len(np.unique(self.people[active]))
        return {
            "users": people,
            "items": int(np.count_nonzero(self.per_item())),
            "interactions": len(self.users),
        }


def people_of(user_ids: np.ndarray) -> np.ndarray:
    """(U,) codes that are equal where the ids are equal: one person may have one sequence in each of two files."""
    return np.unique(user_ids, return_inverse=True)[1].astype(np.int64)


def build_interactions(
    raw: RawData, filters: Filters = Filters(), *, max_users: int | None = None, seed: int
) -> tuple[Items, FilteredInteractions, Funnel]:
    """Filter, order and renumber a loaded dataset by the rules at the top of this module.

    Users and items keep the loader's order. Memory and time are linear in N except for the sorts.

    Args:
        raw: the dataset as loaded.
        filters: which rows and items are left out.
        max_users: how many users are kept; None: all.
        seed: chooses these users.

    Raises:
        UserError: nothing is left (the message shows the funnel), a filter needs a column that the dataset lacks,
            ``max_users`` is below 1, or one sequence is labelled with two splits.
    """
    if max_users is not None and max_users < 1:
        raise UserError(f"max_users={max_users} leaves no user; give a positive number or max_users=null")
    source = raw.interactions
    rows = _Rows(
        users=source.users,
        items=source.items,
        timestamps=source.timestamps,
        split=source.split,
        targets=source.targets,
        people=people_of(source.user_ids) if source.is_split else None,
        num_users=len(source.user_ids),
        num_items=len(raw.items),
        ratings=source.ratings,
        places=np.arange(len(source.users)),
    )
    rows.sort_by_time()
    published = rows.held_out()
    funnel = Funnel(raw.name)
    in_catalogue = np.ones(len(raw.items), dtype=bool)
    _record(funnel, rows, "loaded", "as read")

    if filters.min_rating is not None:
        if rows.ratings is None:
            raise UserError(
                f"dataset {raw.name}: min_rating={filters.min_rating} but it has no ratings; set min_rating=null"
            )
        rows.hide(~(rows.ratings >= filters.min_rating))  # not <: an unrated row is nan
        _record(funnel, rows, "min_rating", f"rated below {filters.min_rating:g} or not rated")

    no_title = np.array([not title.strip() for title in raw.items.titles], dtype=bool)
    funnel.notes["untitled_items"] = int(no_title.sum())
    if filters.untitled == "drop":
        in_catalogue &= ~no_title
        rows.select(in_catalogue[rows.items])
        _record(funnel, rows, "untitled", "items without a title")

    earliest = _earliest_of_pair(rows)
    if filters.repeats == "first":
        rows.select(earliest)
        _record(funnel, rows, "repeats", "a user's later interactions with the same item")
    else:
        funnel.notes["repeated_pairs_kept"] = int(len(earliest) - earliest.sum())

    if filters.k_core > 0:
        _keep_core(rows, filters.k_core)
        in_catalogue &= rows.per_item() > 0
        _record(
            funnel,
            rows,
            "k_core",
            f"users and items with fewer than {filters.k_core} interactions, repeatedly",
        )
    if filters.min_length > 1:
        rows.select((rows.per_user() >= filters.min_length)[rows.users])
        _record(funnel, rows, "min_length", f"users with fewer than {filters.min_length} interactions")
    if filters.max_length is not None:
        ends = np.cumsum(rows.per_user())
        rows.hide(ends[rows.users] - np.arange(len(rows.users)) > filters.max_length)
        _record(funnel, rows, "max_length", f"all but a user's latest {filters.max_length} interactions")
    if filters.unused_items == "drop":
        in_catalogue &= rows.per_item() > 0
    if rows.held_out() < published:
        funnel.notes["published_targets_filtered_out"] = published - rows.held_out()
        log.warning(
            "filters remove %d of %d published validation and test targets, so figures that others publish on these "
            "files do not compare; dataset.filters.min_length=1 dataset.filters.repeats=all keeps the targets",
            published - rows.held_out(),
            published,
        )
    has_owner = rows.per_item() > 0
    kept = None
    if max_users is not None:
        chosen = _subset_of_users(source.user_ids, rows.per_user() > 0, max_users, seed)
        rows.select(chosen[rows.users])
        _record(funnel, rows, "max_users", f"all but {max_users} users, chosen by seed {seed}")
        kept = ~has_owner | (rows.per_item() > 0)
        funnel.notes["items_of_dropped_users"] = int(np.count_nonzero(~kept))

    items = _restrict(raw.items, in_catalogue, no_title, kept)
    funnel.notes["unused_items"] = int(len(items) - np.count_nonzero(has_owner))
    funnel.notes["repeated_titles"] = count_repeated_titles(items)
    funnel.notes["items_without_image"] = len(items) - len(items.images)
    return items, _flatten(rows, source.user_ids, in_catalogue), funnel


def count_repeated_titles(items: Items) -> int:
    """Number of items that share their title with another item."""
    return sum(count for count in Counter(items.titles.tolist()).values() if count > 1)


def _record(funnel: Funnel, rows: _Rows, step: str, reason: str) -> None:
    funnel.steps.append({"step": step, "reason": reason, **rows.counts()})
    if len(rows.users) == 0:
        emptied = "nothing was loaded" if step == "loaded" else f"the filter {step} ({reason}) left nothing"
        raise UserError(
            f"dataset {funnel.dataset} is empty: {emptied}; loosen it or check the data. {funnel.describe()}"
        )


def _earliest_of_pair(rows: _Rows) -> np.ndarray:
    """(N,) mask of the first row of every user-item pair, for rows in time order."""
    pairs = rows.users.astype(np.int64) * rows.num_items + rows.items
    first = np.zeros(len(pairs), dtype=bool)
    first[np.unique(pairs, return_index=True)[1]] = True
    return first


def _keep_core(rows: _Rows, k: int) -> None:
    while True:
        keep = (rows.per_user() >= k)[rows.users] & (rows.per_item() >= k)[rows.items]
        if keep.all():
            return
        rows.select(keep)


def _subset_of_users(user_ids: np.ndarray, active: np.ndarray, max_users: int, seed: int) -> np.ndarray:
    """(U,) mask of the `max_users` active ids with the smallest hashes; equal ids go together."""
    distinct, person = np.unique(user_ids[active], return_inverse=True)
    draws = np.fromiter((derive_seed(seed, "max_users", name) for name in distinct), np.int64, len(distinct))
    chosen_people = np.zeros(len(distinct), dtype=bool)
    chosen_people[np.argsort(draws, kind="stable")[:max_users]] = True
    chosen = np.zeros(len(user_ids), dtype=bool)
    chosen[active] = chosen_people[person]
    return chosen


def _restrict(items: Items, in_catalogue: np.ndarray, no_title: np.ndarray, kept: np.ndarray | None) -> Items:
    titles = items.titles
    if no_title.any():
        titles = np.where(no_title, np.char.add("Untitled ", items.ids), titles)
    ids = items.ids[in_catalogue]
    names = set(ids.tolist())
    images = {name: path for name, path in items.images.items() if name in names}
    return Items(
        ids,
        titles[in_catalogue],
        items.details[in_catalogue],
        images,
        None if kept is None else kept[in_catalogue],
    )


def _flatten(rows: _Rows, user_ids: np.ndarray, in_catalogue: np.ndarray) -> FilteredInteractions:
    lengths = rows.per_user()
    active = lengths > 0
    offsets = np.concatenate([[0], np.cumsum(lengths[active])]).astype(np.int64)
    new_code = np.cumsum(in_catalogue, dtype=np.int32) - np.int32(1)
    given_split = None
    if rows.targets is not None:
        # The first split in the order train, validation, test. A sequence without targets left is no training data.
        labels = np.where(rows.targets == NO_TARGET, TEST, rows.targets)
        given_split = np.minimum.reduceat(labels, offsets[:-1])
    elif rows.split is not None:
        given_split = rows.split[offsets[:-1]]
        mixed = np.flatnonzero(np.repeat(given_split, np.diff(offsets)) != rows.split)
        if len(mixed):
            name = user_ids[rows.users[mixed[0]]]
            raise UserError(
                f"user {name}: one sequence is labelled both train and test; give it one sequence per file"
            )
    nothing = np.empty(0, np.int32), np.empty(0, np.int32), np.empty(0, np.int64)
    hidden_users, hidden_items, hidden_places = (
        np.concatenate(columns) for columns in zip(nothing, *rows.hidden, strict=True)
    )
    relevant = active[hidden_users] & in_catalogue[hidden_items]
    new_user = np.cumsum(active, dtype=np.int32) - np.int32(1)
    return FilteredInteractions(
        user_ids=user_ids[active],
        offsets=offsets,
        items=new_code[rows.items],
        timestamps=rows.timestamps,
        given_split=given_split,
        given_targets=rows.targets,
        hidden_users=new_user[hidden_users[relevant]],
        hidden_items=new_code[hidden_items[relevant]],
        hidden_positions=np.searchsorted(rows.places, hidden_places[relevant]),
    )
