"""Which training samples carry reasoning."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from mllmrec.cot.base import CotKey, CotPolicy
from mllmrec.errors import UserError, choices
from mllmrec.randomness import derive_seed

FORMS = ("replace", "augment")
SELECTIONS = ("random", "confidence")
SCHEDULES = ("constant", "linear", "warmup")


@dataclass(frozen=True)
class Carriers:
    """Which of S training samples carry reasoning when the schedule is at its highest."""

    positions: np.ndarray  # (n,) int64 in the order of choice; each has reasoning
    wanted: int  # equals n if enough samples have reasoning
    looked_at: (
        np.ndarray
    )  # (m,) int64: the samples that were looked at for reasoning, which was made if necessary


class Mixing:
    """How reasoning is spread over the training samples.

    Args:
        form: ``replace``: a chosen sample is seen with its reasoning instead of without. ``augment``: it is seen in
            both forms.
        select: ``random``, or ``confidence``: the most confident first.
        schedule: how the share changes over a stage: one of `SCHEDULES` (see `share_at`).
        warmup: share of the stage over which ``schedule="warmup"`` rises.

    Raises:
        UserError: a value is not among these choices.
    """

    def __init__(
        self,
        form: Literal["replace", "augment"] = "replace",
        select: Literal["random", "confidence"] = "random",
        schedule: Literal["constant", "linear", "warmup"] = "constant",
        warmup: float = 0.1,
    ) -> None:
        if form not in FORMS:
            raise UserError(f"mixing.form={form}: it is one of {choices(FORMS)}")
        if select not in SELECTIONS:
            raise UserError(f"mixing.select={select}: it is one of {choices(SELECTIONS)}")
        share_at(schedule, 0.0, warmup)
        self.form, self.select, self.schedule, self.warmup = form, select, schedule, warmup

    def choose(
        self,
        sample_ids: Sequence[str] | np.ndarray,
        mix_ratio: float,
        seed: int,
        cot: CotPolicy,
        key_of: Callable[[int], CotKey],
    ) -> Carriers:
        """Choose ``round(mix_ratio * S)`` samples that have reasoning, or all with reasoning if there are fewer.

        Samples are looked at in the order of `select_cot`, and samples without reasoning are skipped, so reasoning is
        made for as many samples as the share needs. ``select="confidence"`` looks at all samples.

        Args:
            sample_ids: (S,) unique ids.
            mix_ratio: share of the S samples, 0 to 1.
            seed: decides the order.
            cot: gives the reasoning, and makes it if necessary.
            key_of: gives the key of the sample at a position.

        Raises:
            UserError: ``mix_ratio`` lies outside 0 to 1, or samples are to be chosen by confidence and the policy gives
                no confidence.
        """
        drawn = select_cot(sample_ids, 1.0, seed)
        wanted = len(select_cot(sample_ids, mix_ratio, seed))
        if wanted == 0:
            return Carriers(drawn[:0], 0, drawn[:0])
        looked_at: list[int] = []

        def keys() -> Iterator[CotKey]:
            for position in drawn.tolist():
                looked_at.append(position)
                yield key_of(position)

        by_confidence = self.select == "confidence"
        places = cot.supply(keys(), len(drawn) if by_confidence else wanted)
        having = drawn[places]
        if by_confidence:
            values = cot.confidences([key_of(position) for position in having.tolist()])
            if values is None:
                raise UserError(
                    "mixing.select=confidence: this cot_policy gives no confidence; choose another"
                )
            names = [str(sample_ids[position]) for position in having.tolist()]
            known = dict(zip(names, values, strict=True))
            chosen = select_confident(sample_ids, mix_ratio, seed, known)
        else:
            chosen = having[:wanted]
        return Carriers(chosen, wanted, np.array(looked_at, dtype=np.int64))


class Mixture:
    """Which form of which sample each batch of a stage holds.

    The code of a form is the sample's position, plus S for the form with reasoning.
    """

    def __init__(self, mixing: Mixing, samples: int, chosen: np.ndarray) -> None:
        """Set up for the samples that were chosen.

        Args:
            mixing: how reasoning is spread.
            samples: their number S.
            chosen: (n,) positions of the samples with reasoning, in the order of choice.
        """
        self.mixing, self.samples, self.chosen = mixing, samples, chosen
        self._place = {int(position): place for place, position in enumerate(chosen)}

    def __len__(self) -> int:
        """Entries in one pass over the data: S, or S + n if chosen samples appear in both forms."""
        return self.samples + (len(self.chosen) if self.mixing.form == "augment" else 0)

    def sample(self, entries: np.ndarray) -> np.ndarray:
        """(b,) the samples that entries show, in whatever form."""
        return np.concatenate([np.arange(self.samples), self.chosen])[entries]

    def form(self, entries: np.ndarray, step: int, steps: int) -> np.ndarray:
        """(b,) codes of forms for the entries of one step of ``steps``; where the schedule is lower, samples chosen late
        appear plain."""
        share = share_at(self.mixing.schedule, step / max(steps - 1, 1), self.mixing.warmup)
        active = rounded_share(share, len(self.chosen))
        return np.array([self._form(int(entry), active) for entry in entries], dtype=np.int64)

    def forms(self, batches: Sequence[np.ndarray]) -> list[np.ndarray]:
        """`form` of each of a phase's batches."""
        return [self.form(batch, step, len(batches)) for step, batch in enumerate(batches)]

    def _form(self, entry: int, active: int) -> int:
        if entry >= self.samples:
            place = entry - self.samples
            return int(self.chosen[place]) + (self.samples if place < active else 0)
        if self.mixing.form == "augment":
            return entry
        place = self._place.get(entry, active)
        return entry + (self.samples if place < active else 0)


def select_cot(sample_ids: Sequence[str] | np.ndarray, mix_ratio: float, seed: int) -> np.ndarray:
    """Draw ``round(mix_ratio * S)`` of S samples; their positions in the order of drawing, (n,) int64.

    Every sample has a rank drawn from ``seed`` and its id, and the lowest ranks are chosen. So the choice depends
    neither on the samples' order nor on any other draw, and a larger ratio keeps all that a smaller ratio chose.

    Raises:
        UserError: ``mix_ratio`` lies outside 0 to 1.
        ValueError: an id is repeated.
    """
    _check_ratio(mix_ratio)
    names = _unique(sample_ids)
    ranks = np.array([_rank(seed, name) for name in names], dtype=np.int64)
    return np.argsort(ranks, kind="stable")[: rounded_share(mix_ratio, len(names))]


def select_confident(
    sample_ids: Sequence[str] | np.ndarray,
    mix_ratio: float,
    seed: int,
    confidences: Mapping[str, float | None],
) -> np.ndarray:
    """Choose the ``round(mix_ratio * S)`` most confident of S samples, or as many as have a confidence.

    Returns their positions in the order of choice, (n,) int64. Ranks as in `select_cot` order equally confident
    samples, so all properties of `select_cot` hold here too.

    Args:
        sample_ids: (S,) unique ids.
        mix_ratio: share of the S samples, 0 to 1.
        seed: decides the ranks.
        confidences: by sample id, in [0, 1]. A sample with None or without an entry is never chosen.

    Raises:
        UserError: ``mix_ratio`` lies outside 0 to 1.
        ValueError: an id is repeated, or a confidence is nan or outside 0 to 1.
    """
    _check_ratio(mix_ratio)
    chosen = most_confident(known_confidences(sample_ids, confidences), seed)
    return np.array(chosen[: rounded_share(mix_ratio, len(sample_ids))], dtype=np.int64)


def most_confident(known: Sequence[tuple[int, str, float]], seed: int) -> list[int]:
    """Positions of ``(position, id, confidence)`` by falling confidence; equal ones in the order of `select_cot`."""
    ordered = sorted(known, key=lambda entry: (-entry[2], _rank(seed, entry[1])))
    return [position for position, _, _ in ordered]


def rounded_share(share: float, count: int) -> int:
    """``share`` of `count` samples as a whole number; halves round to the even number, as in `round`."""
    return round(share * count)


def share_at(schedule: str, progress: float, warmup: float = 0.1) -> float:
    """The factor of ``mix_ratio`` at a point of the training, 0 to 1.

    ``constant``: 1. ``linear``: falls from 1 to 0 over the training. ``warmup``: rises from 0 to 1 over the first
    ``warmup`` share, then stays. A smaller ratio selects a subset of what a larger ratio selects, so samples leave
    (or join) one by one and none goes back and forth.

    Args:
        schedule: one of `SCHEDULES`.
        progress: share of the training that is done, 0 to 1.
        warmup: share of the training, 0 to 1; other schedules do not use it.

    Raises:
        UserError: there is no such schedule, or ``warmup`` lies outside 0 to 1.
        ValueError: ``progress`` lies outside 0 to 1.
    """
    if schedule not in SCHEDULES:
        raise UserError(f"schedule={schedule}: it is one of {choices(SCHEDULES)}")
    if not 0 <= warmup <= 1:
        raise UserError(f"warmup={warmup}: must lie between 0 and 1")
    if not 0 <= progress <= 1:
        raise ValueError(f"progress={progress} must lie between 0 and 1")
    if schedule == "linear":
        return 1.0 - progress
    return progress / warmup if schedule == "warmup" and progress < warmup else 1.0


def known_confidences(
    sample_ids: Sequence[str] | np.ndarray, confidences: Mapping[str, float | None]
) -> list[tuple[int, str, float]]:
    """(position, id, confidence) of the samples with a confidence, in the samples' order.

    Raises:
        ValueError: an id is repeated, or a confidence is nan or outside 0 to 1.
    """
    known = [
        (position, name, value)
        for position, name in enumerate(_unique(sample_ids))
        if (value := confidences.get(name)) is not None
    ]
    for _, name, value in known:
        if not 0 <= value <= 1:
            raise ValueError(f"confidence {value} of {name} must lie between 0 and 1")
    return known


def _check_ratio(mix_ratio: float) -> None:
    if not 0 <= mix_ratio <= 1:
        raise UserError(f"mix_ratio={mix_ratio}: must lie between 0 and 1")


def _unique(sample_ids: Sequence[str] | np.ndarray) -> list[str]:
    names = [str(name) for name in sample_ids]
    if len(set(names)) < len(names):
        raise ValueError("sample ids must be unique: the choice is made by id")
    return names


def _rank(seed: int, name: str) -> int:
    return derive_seed(seed, "cot-selection", name)
