"""Published train, validation and test rows → sequences with named targets.

Two forms are common. *Interactions*: each row is one interaction. A validation or test row is a target, and its
history is what the user did before. *Samples*: each row holds a target and its history as a list.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mllmrec.data.base import NO_TARGET, TRAIN, RawInteractions


@dataclass(frozen=True)
class PublishedSamples:
    """R targets with their histories, coded; rows in the order train, validation, test."""

    user_ids: np.ndarray  # (P,) str, unique
    users: np.ndarray  # (R,) int32, index into user_ids
    offsets: (
        np.ndarray
    )  # (R + 1,) int64: the history of row r is history[offsets[r]:offsets[r + 1]], oldest first
    history: np.ndarray  # (M,) int32, item codes
    targets: np.ndarray  # (R,) int32, item codes
    labels: np.ndarray  # (R,) int8: TRAIN, VALIDATION or TEST


def join_interactions(rows: RawInteractions, labels: np.ndarray) -> RawInteractions:
    """Name the targets of interactions.

    A user's training sequence holds only train rows. If all validation and test rows of the user come later, they
    continue that sequence. If not (the split is not one in time), they go into a second sequence, with the train rows
    as context. So a training history never holds anything that is held out.

    Args:
        rows: in the order train, validation, test, which decides between equal times. User ids are unique.
        labels: (N,) int8: TRAIN, VALIDATION or TEST.
    """
    order = np.argsort(rows.users, kind="stable")
    if rows.timestamps is not None:
        order = np.lexsort((rows.timestamps, rows.users))
    users, training = rows.users[order], labels[order] == TRAIN
    places = np.arange(len(order))
    last_train = np.full(len(rows.user_ids), -1, dtype=np.int64)
    np.maximum.at(last_train, users[training], places[training])
    first_held_out = np.full(len(rows.user_ids), len(order), dtype=np.int64)
    np.minimum.at(first_held_out, users[~training], places[~training])
    mixed = np.flatnonzero(last_train > first_held_out)
    if not len(mixed):
        return _with_targets(rows, labels)
    second = np.full(len(rows.user_ids), -1, dtype=np.int32)
    second[mixed] = len(rows.user_ids) + np.arange(len(mixed), dtype=np.int32)
    again = second[rows.users] >= 0
    first = ~again | (labels == TRAIN)
    chosen = np.concatenate([np.flatnonzero(first), np.flatnonzero(again)])
    codes = np.concatenate([rows.users[first], second[rows.users[again]]])
    context = np.where(labels[again] == TRAIN, NO_TARGET, labels[again])
    both = RawInteractions(
        user_ids=np.concatenate([rows.user_ids, rows.user_ids[mixed]]),
        users=codes,
        items=rows.items[chosen],
        timestamps=None if rows.timestamps is None else rows.timestamps[chosen],
        ratings=None if rows.ratings is None else rows.ratings[chosen],
    )
    return _with_targets(both, np.concatenate([labels[first], context]).astype(np.int8))


def _with_targets(rows: RawInteractions, targets: np.ndarray) -> RawInteractions:
    return RawInteractions(
        rows.user_ids, rows.users, rows.items, rows.timestamps, rows.ratings, targets=targets.astype(np.int8)
    )


def stitch_samples(samples: PublishedSamples) -> RawInteractions:
    """Put a user's samples together into as few sequences as their histories allow.

    A sample continues the user's latest sequence if its history is the end of that sequence (published histories are
    often cut to the latest items), or if that sequence is the beginning of its history. Otherwise it begins a new
    sequence, with its history as context. So every sample keeps at least as much history as was published, and an
    interaction that appears in many histories is stored once.
    """
    order = np.lexsort((np.diff(samples.offsets), samples.labels, samples.users))
    codes: list[int] = []  # the user of each sequence
    sequences: list[list[int]] = []
    targets: list[list[int]] = []
    for row in order.tolist():
        user = int(samples.users[row])
        history = samples.history[samples.offsets[row] : samples.offsets[row + 1]].tolist()
        if not codes or codes[-1] != user or not _goes_on(sequences[-1], history):
            codes.append(user)
            sequences.append([])
            targets.append([])
        items, labels = sequences[-1], targets[-1]
        new = history[len(items) :]
        items += [*new, int(samples.targets[row])]
        labels += [*([NO_TARGET] * len(new)), int(samples.labels[row])]
    lengths = [len(items) for items in sequences]
    return RawInteractions(
        user_ids=samples.user_ids[codes],
        users=np.repeat(np.arange(len(codes), dtype=np.int32), lengths),
        items=np.array([item for items in sequences for item in items], dtype=np.int32),
        targets=np.array([label for labels in targets for label in labels], dtype=np.int8),
    )


def _goes_on(items: list[int], history: list[int]) -> bool:
    if len(history) <= len(items):
        return bool(history) and items[-len(history) :] == history
    return history[: len(items)] == items
