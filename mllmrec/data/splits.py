"""Decides which interactions of each user are predicted in training, validation and test.

Hydra instantiates one of the classes. Called with interactions, it returns ``{"train", "validation", "test"}`` ->
`Samples`. A sample is a target; its history is whatever the same user did before it. Nothing is copied: a sample
costs two integers, even for a million users with sliding windows.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from mllmrec.data.base import TEST, TRAIN, VALIDATION, Interactions
from mllmrec.data.parts import Parts, ranges
from mllmrec.errors import UserError
from mllmrec.randomness import derive_seed

log = logging.getLogger(__name__)

Windows = Literal["last", "sliding"]


@dataclass(frozen=True)
class Samples:
    """S targets, each with the history before it, as places in the interactions."""

    interactions: Interactions
    users: np.ndarray  # (S,) int32, index into the interactions' users
    positions: np.ndarray  # (S,) int64, index of the target into the interactions' items
    left_out: int = 0  # users of this split that are too short to give a sample

    def __len__(self) -> int:
        return len(self.users)

    @property
    def targets(self) -> np.ndarray:
        """(S,) int32 item codes."""
        return self.interactions.items[self.positions]

    @property
    def history_lengths(self) -> np.ndarray:
        """(S,) int64: how many items precede each target."""
        return self.positions - self.interactions.offsets[self.users]

    @cached_property
    def sample_ids(self) -> list[str]:
        """The ids of all samples, in order."""
        return [self.sample_id(index) for index in range(len(self))]

    def user_id(self, index: int) -> str:
        """The id of the sample's user."""
        return str(self.interactions.user_ids[self.users[index]])

    def target(self, index: int) -> int:
        """The item code to be predicted."""
        return int(self.interactions.items[self.positions[index]])

    def history(self, index: int, length: int | None = None) -> np.ndarray:
        """The items before the target, oldest first, as item codes: at most `length` of them, or all if None."""
        end = int(self.positions[index])
        start = int(self.interactions.offsets[self.users[index]])
        return self.interactions.items[start if length is None else max(start, end - length) : end]

    def parts(self) -> Parts:
        """The items of each user up to the latest of these targets, oldest first: all that training may see."""
        users, first = np.unique(self.users, return_index=True)
        users = users[np.argsort(first, kind="stable")]  # in the order of the samples
        offsets = self.interactions.offsets
        return Parts(self.interactions.items, offsets[users], latest_targets(self)[users] + 1)

    def sample_id(self, index: int) -> str:
        """``<user id>:<place of the target in the user's sequence>``: unique within a split.

        If a person has several sequences in the split, places continue from one to the next.
        """
        user = int(self.users[index])
        place = self.positions[index] - self.interactions.offsets[user] + self._begins.get(user, 0)
        return f"{self.interactions.user_ids[user]}:{place}"

    @cached_property
    def _begins(self) -> dict[int, int]:
        """For people with several sequences in this split: sequence → how many items the earlier ones have."""
        if self.interactions.given_targets is None:
            return {}
        lengths: dict[str, int] = {}
        begins = {}
        for user in np.unique(self.users).tolist():
            name = self.interactions.user_ids[user]
            begins[user] = lengths.get(name, 0)
            lengths[name] = begins[user] + int(np.diff(self.interactions.offsets[user : user + 2])[0])
        return begins


class LeaveOneOut:
    """A user's last item is the test target, the one before is the validation target, and the rest is for training.

    ``windows="last"`` trains on the third last item only. ``windows="sliding"`` trains on every item up to it that has
    at least `min_history` items before it.

    Raises on call:
        UserError: a split is empty, or one user has sequences in both files of a given split.
    """

    def __init__(self, windows: Windows = "last", min_history: int = 1) -> None:
        self.windows, self.min_history = checked(windows, min_history)

    def __call__(self, interactions: Interactions) -> dict[str, Samples]:
        """Split into train, validation and test."""
        _refuse_two_sequences(interactions)
        users = np.arange(interactions.num_users)
        starts, ends = interactions.offsets[:-1], interactions.offsets[1:]
        first = starts + self.min_history
        return not_empty(
            {
                "train": training_samples(interactions, users, ends - 2, self.windows, self.min_history),
                "validation": _held_out(interactions, users, ends - 2, ends - 2 >= first),
                "test": _held_out(interactions, users, ends - 1, ends - 1 >= first),
            }
        )


class Given:
    """The publisher's split, given as sequences or as single targets.

    If the split is given as sequences, the last item of a test sequence is a test target, and train sequences are for
    training. If the publisher names every target, exactly these are the targets of validation and test. In training
    ``windows="last"`` then takes the last named target of each sequence.

    If nothing is named for validation, `validation_share` of the train users are held out (rounded, at least one).
    A seeded hash of the user id chooses them, so their order does not matter. Their last item is a validation target
    and nothing of theirs is trained on. A share of 0 leaves validation empty.

    Raises on call:
        UserError: the dataset has no given split, or a split is empty.
    """

    published = True  # it takes the split that the dataset's publisher gives

    def __init__(
        self, windows: Windows = "last", min_history: int = 1, validation_share: float = 0.1, seed: int = 0
    ) -> None:
        self.windows, self.min_history = checked(windows, min_history)
        if not 0 <= validation_share < 1:
            raise UserError(f"validation_share={validation_share} must be at least 0 and below 1")
        self.validation_share, self.seed = validation_share, seed

    def __call__(self, interactions: Interactions) -> dict[str, Samples]:
        """Split into train, validation and test."""
        if interactions.given_split is None:
            raise UserError(
                "split=given but the dataset has no published split; use split=leave_one_out or split=time"
            )
        if interactions.given_targets is not None:
            return self._named(interactions, interactions.given_targets)
        learning = np.flatnonzero(interactions.given_split == TRAIN)
        testing = np.flatnonzero(interactions.given_split == TEST)
        held_out = self._drawn(interactions.user_ids[learning])
        validating, learning = learning[held_out], learning[~held_out]

        def last_items(users: np.ndarray) -> Samples:
            last = interactions.offsets[users + 1] - 1
            return _held_out(
                interactions, users, last, last >= interactions.offsets[users] + self.min_history
            )

        splits = {
            "train": training_samples(
                interactions, learning, interactions.offsets[learning + 1], self.windows, self.min_history
            ),
            "validation": last_items(validating),
            "test": last_items(testing),
        }
        return not_empty(splits, allow_no_validation=self.validation_share == 0)

    def _named(self, interactions: Interactions, targets: np.ndarray) -> dict[str, Samples]:
        """The split of a publisher who names every target; `targets` is (N,)."""
        sequences = np.repeat(np.arange(interactions.num_users), np.diff(interactions.offsets))
        places = np.arange(len(targets)) - interactions.offsets[sequences]
        usable = places >= self.min_history
        held_out = np.isin(targets, (VALIDATION, TEST))
        lost = int(np.count_nonzero(held_out & ~usable & (places >= 1)))
        if lost:
            log.warning(
                "split.min_history=%d leaves out %d of %d published validation and test targets; their histories are "
                "shorter: figures that others publish on these files do not compare; split.min_history=1 keeps them",
                self.min_history,
                lost,
                int(np.count_nonzero(held_out)),
            )
        train, validation = targets == TRAIN, targets == VALIDATION
        if not validation.any():
            names = np.unique(interactions.user_ids[sequences[train]])
            chosen = np.isin(interactions.user_ids, names[self._drawn(names)])[sequences]
            validation = last_of_each(train & chosen, sequences, interactions.num_users)
            train &= ~chosen
        if self.windows == "last":
            train = last_of_each(train, sequences, interactions.num_users)
        splits = {}
        for name, mask in (("train", train), ("validation", validation), ("test", targets == TEST)):
            positions = np.flatnonzero(mask & usable)
            left_out = int(np.count_nonzero(mask & ~usable))
            splits[name] = Samples(interactions, sequences[positions].astype(np.int32), positions, left_out)
        return not_empty(splits, allow_no_validation=self.validation_share == 0)

    def _drawn(self, names: np.ndarray) -> np.ndarray:
        """(P,) mask of the people who are held out for validation."""
        draws = np.fromiter(
            (derive_seed(self.seed, "validation", name) for name in names), np.int64, len(names)
        )
        count = max(1, round(self.validation_share * len(names))) if self.validation_share > 0 else 0
        held_out = np.zeros(len(names), dtype=bool)
        held_out[np.argsort(draws, kind="stable")[:count]] = True
        return held_out


class ByTime:
    """Two cuts in time, the same for all users: train before the first, validate between them, test from the second.

    A user's validation target is the first interaction in ``[validation_from, test_from)``, and the test target is
    the first at or after ``test_from``. Histories are everything earlier. The cuts are given as timestamps (in the
    dataset's unit) or follow from the shares: of the N interactions sorted by time, the cut is the timestamp at index
    ``round((1 - share) N)``, so ties at a cut fall behind it.

    Raises on call:
        UserError: the dataset has no timestamps, the cuts are in the wrong order, a split is empty, or one user has
            sequences in both files of a given split.
    """

    def __init__(
        self,
        windows: Windows = "last",
        min_history: int = 1,
        validation_share: float = 0.1,
        test_share: float = 0.1,
        validation_from: int | None = None,
        test_from: int | None = None,
    ) -> None:
        self.windows, self.min_history = checked(windows, min_history)
        if (validation_from is None) != (test_from is None):
            raise UserError("give both validation_from and test_from, or neither and let the shares decide")
        if validation_from is not None and test_from is not None and validation_from >= test_from:
            raise UserError(f"validation_from={validation_from} must be earlier than test_from={test_from}")
        if validation_from is None and not (
            validation_share > 0 and test_share > 0 and validation_share + test_share < 1
        ):
            raise UserError(
                f"validation_share={validation_share} and test_share={test_share} must be positive and sum to below 1"
            )
        self.validation_share, self.test_share = validation_share, test_share
        self.validation_from, self.test_from = validation_from, test_from

    def cuts(self, timestamps: np.ndarray) -> tuple[int, int]:
        """The two cuts for these (N,) timestamps."""
        if self.validation_from is not None and self.test_from is not None:
            return self.validation_from, self.test_from
        count = len(timestamps)
        places = [
            min(count - 1, round((1 - held_out) * count))
            for held_out in (self.validation_share + self.test_share, self.test_share)
        ]
        first, second = np.partition(timestamps, places)[places]
        return int(first), int(second)

    def __call__(self, interactions: Interactions) -> dict[str, Samples]:
        """Split into train, validation and test."""
        if interactions.timestamps is None:
            raise UserError("split=time but the dataset has no timestamps; use split=leave_one_out")
        _refuse_two_sequences(interactions)
        validation_from, test_from = self.cuts(interactions.timestamps)
        users = np.arange(interactions.num_users)
        starts, ends = interactions.offsets[:-1], interactions.offsets[1:]
        first = starts + self.min_history
        validating = starts + _count_before(interactions.timestamps, interactions.offsets, validation_from)
        testing = starts + _count_before(interactions.timestamps, interactions.offsets, test_from)
        return not_empty(
            {
                "train": training_samples(interactions, users, validating, self.windows, self.min_history),
                "validation": _held_out(
                    interactions, users, validating, (validating < testing) & (validating >= first)
                ),
                "test": _held_out(interactions, users, testing, (testing < ends) & (testing >= first)),
            }
        )


def latest_targets(samples: Samples) -> np.ndarray:
    """(U,) int64: the position of the latest of these samples' targets in each sequence; -1 if there is none."""
    latest = np.full(samples.interactions.num_users, -1, dtype=np.int64)
    np.maximum.at(latest, samples.users, samples.positions)
    return latest


def training_counts(train: Samples, num_items: int) -> np.ndarray:
    """(I,) int64: how often each item occurs in the training users' sequences up to their last training target."""
    interactions = train.interactions
    last = latest_targets(train)
    lengths = np.where(last < 0, 0, last + 1 - interactions.offsets[:-1])
    return np.bincount(interactions.items[ranges(interactions.offsets[:-1], lengths)], minlength=num_items)


def checked(windows: Windows, min_history: int) -> tuple[Windows, int]:
    """The two settings that all splits have.

    Raises:
        UserError: one of them is out of range.
    """
    if windows not in ("last", "sliding"):
        raise UserError(f"windows={windows!r} is not known; give last or sliding")
    if min_history < 1:
        raise UserError(f"min_history={min_history} must be at least 1: a target needs something before it")
    return windows, min_history


def _refuse_two_sequences(interactions: Interactions) -> None:
    if interactions.given_split is None:
        return
    names, counts = np.unique(interactions.user_ids, return_counts=True)
    if (counts > 1).any():
        name = names[counts > 1][0]
        raise UserError(
            f"user {name} has a sequence in the train file and one in the test file; use split=given"
        )


def last_of_each(mask: np.ndarray, sequences: np.ndarray, count: int) -> np.ndarray:
    """The mask reduced to its last place in each of the ``count`` sequences."""
    last = np.full(count, -1, dtype=np.int64)
    places = np.flatnonzero(mask)
    np.maximum.at(last, sequences[places], places)
    kept = np.zeros(len(mask), dtype=bool)
    kept[last[last >= 0]] = True
    return kept


def training_samples(
    interactions: Interactions, users: np.ndarray, stops: np.ndarray, windows: Windows, min_history: int
) -> Samples:
    """Targets before `stops` (U',), which index the items of each user: only the latest one, or all."""
    first = interactions.offsets[users] + min_history
    counts = np.maximum(0, stops - first)
    left_out = int((counts == 0).sum())
    if windows == "last":
        first, counts = stops - 1, np.minimum(counts, 1)
    return Samples(interactions, np.repeat(users, counts).astype(np.int32), ranges(first, counts), left_out)


def _held_out(
    interactions: Interactions, users: np.ndarray, targets: np.ndarray, usable: np.ndarray
) -> Samples:
    return Samples(interactions, users[usable].astype(np.int32), targets[usable], int((~usable).sum()))


def _count_before(timestamps: np.ndarray, offsets: np.ndarray, cut: int) -> np.ndarray:
    """(U,) number of each user's interactions earlier than `cut`."""
    running = np.concatenate([[0], np.cumsum(timestamps < cut)])
    return running[offsets[1:]] - running[offsets[:-1]]


def not_empty(splits: dict[str, Samples], allow_no_validation: bool = False) -> dict[str, Samples]:
    """The splits.

    Raises:
        UserError: one has no sample; validation may have none if it is allowed.
    """
    for name, samples in splits.items():
        if len(samples) == 0 and not (name == "validation" and allow_no_validation):
            raise UserError(
                f"the {name} split is empty: {samples.left_out} users are too short or have no interaction in it; "
                "lower min_history, change the split's settings, or filter less"
            )
    return splits
