"""A split that keeps some items out of training: only their titles, details and images can help to find them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from mllmrec.data.base import TEST, TRAIN, VALIDATION, Interactions, Items
from mllmrec.data.filters import FilteredInteractions, people_of
from mllmrec.data.splits import Samples, Windows, checked, last_of_each, not_empty, training_samples
from mllmrec.errors import UserError
from mllmrec.randomness import derive_seed

Negatives = Literal["cold", "all"]
# One of so many users who could be tested or validated is validated.
VALIDATED_OF = 5


@dataclass(frozen=True)
class ColdItemInteractions(FilteredInteractions):
    """Sequences without cold items, except for one at the end of a user who is tested or validated.

    Whatever else these users did is among the hidden pairs, so it never becomes a negative of theirs.
    """

    cold: np.ndarray = field(default_factory=lambda: np.empty(0, np.int32))  # (K,) item codes, ascending
    negatives: Negatives = "cold"  # what is drawn beside a cold target

    def may_be_negatives(self, items: Items, training: bool) -> np.ndarray:
        """(I,) bool: the items on offer beside a training target, or beside a cold one."""
        cold = np.zeros(len(items), dtype=bool)
        cold[self.cold] = True
        if training:
            return items.offered & ~cold
        return items.offered & cold if self.negatives == "cold" else items.offered


class ColdItems:
    """A seeded share of the items is cold: no training sequence has them, and no training prompt lists them.

    Half of the cold items are test targets, the other half validation targets. A user's test target is the last
    interaction with a cold item of the first half that has at least `min_history` other items before it. A validation
    target is found in the same way in the second half. Of the users who could have either, a seeded fifth are validated
    and the others are tested; where histories are long, nearly all users could. So validation and test share neither users
    nor targets, and weights chosen on validation targets were not chosen on test targets. The history is everything that
    the user did before the target, without cold items. Training takes what lies in these histories, and the whole
    sequences of all other users without their cold items. So, as in `LeaveOneOut`, a user's training ends before the
    target, and training knows nothing of the user's future.

    With ``negatives="cold"`` the negatives beside a cold target are cold items too, of both halves. Otherwise the target
    would be the only item among the candidates that training never showed, and a model could find it by that alone. Where
    negatives are drawn by popularity, cold ones are drawn by the number of people who have them in the whole data.
    ``negatives="all"`` draws from the whole catalogue, which gives the target away.

    A hash of seed and item id chooses the cold items among those that occur and have a title, and one of seed and user id
    the users to validate, so no file order matters.
    Published splits play no part. If a publisher gives one person two sequences, the longer one is used, or the test
    sequence if they are equally long.

    Args:
        windows: training targets per user: ``last`` or ``sliding``.
        min_history: fewest items before a target.
        share: the cold share of the items.
        negatives: what is drawn beside a cold target.
        seed: chooses the cold items and the users to validate.

    Raises on call:
        UserError: the share gives fewer than two cold items, or a split is empty.
    """

    reads_items = True  # a call also takes the items, whose ids decide which are cold

    def __init__(
        self,
        windows: Windows = "last",
        min_history: int = 1,
        share: float = 0.1,
        negatives: Negatives = "cold",
        seed: int = 0,
    ) -> None:
        self.windows, self.min_history = checked(windows, min_history)
        if not 0 < share < 1:
            raise UserError(
                f"split.share={share} must lie between 0 and 1: some items are cold, and some are not"
            )
        if negatives not in ("cold", "all"):
            raise UserError(f"split.negatives={negatives!r} is not known; give cold or all")
        self.share, self.negatives, self.seed = share, negatives, seed

    def __call__(self, interactions: Interactions, items: Items) -> dict[str, Samples]:
        """Split into train, validation and test, on sequences of their own (`ColdItemInteractions`)."""
        roles = self._roles(interactions, items)
        offsets, count = interactions.offsets, interactions.num_users
        users = np.repeat(np.arange(count), np.diff(offsets))
        places = np.arange(len(users))
        chosen, owners = _one_sequence_each(interactions)
        role = np.where(chosen[users], roles[interactions.items], -1)  # of each interaction; -1 plays no part

        warm_before = _counts_before(role == TRAIN)
        usable = warm_before[places] - warm_before[offsets[users]] >= self.min_history
        tests = _last_places((role == TEST) & usable, users, count)
        validations = _last_places((role == VALIDATION) & usable, users, count)
        validated = self._validated((tests >= 0) & (validations >= 0), interactions.user_ids)
        tests, validations = (
            np.where(validated, -1, tests),
            np.where((tests >= 0) & ~validated, -1, validations),
        )
        targets = np.maximum(tests, validations)
        ends = np.where(targets >= 0, targets, offsets[1:])
        kept = ((role == TRAIN) & (places < ends[users])) | (places == targets[users])

        kept_before = _counts_before(kept)
        active = kept_before[offsets[1:]] > kept_before[offsets[:-1]]
        sequences = self._sequences(interactions, kept, active, owners, np.flatnonzero(roles != TRAIN))
        stops = kept_before[ends[active]]
        splits = {
            "train": training_samples(sequences, np.arange(len(stops)), stops, self.windows, self.min_history)
        }
        candidates = ~validated  # who is counted as left out of a split that has no target for them
        for name, label, found in (("test", TEST, tests), ("validation", VALIDATION, validations)):
            has_any = np.bincount(users[role == label], minlength=count) > 0
            mine = np.flatnonzero((found >= 0)[active]).astype(np.int32)
            left_out = int(np.count_nonzero(has_any & candidates & (found < 0)))
            splits[name] = Samples(sequences, mine, stops[mine], left_out)
            candidates &= found < 0
        return not_empty({name: splits[name] for name in ("train", "validation", "test")})

    def _validated(self, either: np.ndarray, user_ids: np.ndarray) -> np.ndarray:
        """(U,) bool: of the (U,) users who could be tested or validated, those who are validated."""
        chosen = np.zeros(len(either), dtype=bool)
        for user in np.flatnonzero(either).tolist():
            chosen[user] = derive_seed(self.seed, "validated user", str(user_ids[user])) % VALIDATED_OF == 0
        return chosen

    def _roles(self, interactions: Interactions, items: Items) -> np.ndarray:
        """(I,) int8: TRAIN for items that are not cold, else the split that they are targets of."""
        occurring = np.unique(interactions.items)
        occurring = occurring[items.offered[occurring]]
        draws = np.fromiter(
            (derive_seed(self.seed, "cold items", item) for item in items.ids[occurring].tolist()),
            np.int64,
            len(occurring),
        )
        cold = occurring[np.argsort(draws, kind="stable")[: round(self.share * len(occurring))]]
        if len(cold) < 2:
            raise UserError(
                f"split.share={self.share:g} of {len(occurring)} items makes {len(cold)} cold; validation and test need at "
                "least one each: raise the share"
            )
        roles = np.full(len(items), TRAIN, dtype=np.int8)
        half = len(cold) // 2
        roles[cold[:half]] = VALIDATION
        roles[cold[half:]] = TEST
        return roles

    def _sequences(
        self,
        interactions: Interactions,
        kept: np.ndarray,
        active: np.ndarray,
        owners: np.ndarray,
        cold: np.ndarray,
    ) -> ColdItemInteractions:
        """The kept interactions of users who have any; the others are hidden.

        Args:
            interactions: U users, N interactions.
            kept: (N,) bool.
            active: (U,) bool: users with a kept interaction.
            owners: (U,) the sequence that stands for each sequence's person.
            cold: (K,) item codes.
        """
        offsets = interactions.offsets
        kept_before = _counts_before(kept)
        users = np.repeat(np.arange(interactions.num_users), np.diff(offsets))
        hidden = np.flatnonzero(~kept)
        columns = [(users[hidden], interactions.items[hidden], hidden)]
        if isinstance(interactions, FilteredInteractions):
            columns.append(
                (interactions.hidden_users, interactions.hidden_items, interactions.hidden_positions)
            )
        sequence, codes, place = (np.concatenate(parts) for parts in zip(*columns, strict=True))
        owner = owners[sequence]
        # What stands in another sequence of the same person has no place in this one: it comes after everything.
        position = kept_before[np.where(owner == sequence, place, offsets[owner + 1])]
        relevant = active[owner]
        new_user = np.cumsum(active) - 1
        lengths = np.diff(kept_before[offsets])[active]
        return ColdItemInteractions(
            user_ids=interactions.user_ids[active],
            offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            items=interactions.items[kept],
            timestamps=None if interactions.timestamps is None else interactions.timestamps[kept],
            hidden_users=new_user[owner[relevant]].astype(np.int32),
            hidden_items=codes[relevant].astype(np.int32),
            hidden_positions=position[relevant],
            cold=cold.astype(np.int32),
            negatives=self.negatives,
        )


def _one_sequence_each(interactions: Interactions) -> tuple[np.ndarray, np.ndarray]:
    """(U,) bool, the one sequence of each person that is used, and (U,) the used sequence of the person of each."""
    every = np.arange(interactions.num_users)
    if interactions.given_split is None:
        return np.ones(interactions.num_users, dtype=bool), every
    people = people_of(interactions.user_ids)
    order = np.lexsort((interactions.given_split, np.diff(interactions.offsets), people))
    chosen = last_of_each(np.ones(len(order), dtype=bool), people[order], int(people.max()) + 1)
    used = np.zeros(interactions.num_users, dtype=bool)
    used[order[chosen]] = True
    owner_of = np.empty(int(people.max()) + 1, dtype=np.int64)
    owner_of[people[used]] = every[used]
    return used, owner_of[people]


def _counts_before(mask: np.ndarray) -> np.ndarray:
    """(N + 1,) how many places before each one the (N,) mask holds."""
    return np.concatenate([[0], np.cumsum(mask)]).astype(np.int64)


def _last_places(mask: np.ndarray, users: np.ndarray, count: int) -> np.ndarray:
    """(U,) the last place of each user that the (N,) mask holds; -1 if there is none."""
    last = np.full(count, -1, dtype=np.int64)
    places = np.flatnonzero(mask)
    np.maximum.at(last, users[places], places)
    return last
