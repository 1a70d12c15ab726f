"""What a run's folder says about its users, without its data and its model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mllmrec.errors import UserError, choices
from mllmrec.evaluation.records import StageRecords, read_stage, stages_in
from mllmrec.exploring.stages import Measure, Stage, shown_values, stages_of
from mllmrec.reporting.runs import Run, read_run
from mllmrec.run.folder import RunFolder
from mllmrec.run.job_folder import rankings_alone


class Key(NamedTuple):
    """A ranked user and target. A user who came back to an item may have it as target several times."""

    user: str
    target: str
    nth: int = 0  # how many equal pairs come before


@dataclass(frozen=True)
class StoredRanking:
    """How one stage ranked the candidates of one user, best first."""

    stage: Stage
    items: list[str]  # ids
    values: list[float | None] | None  # of each item; None if the folder holds no scores
    complete: bool  # whether these are all candidates; if not, probabilities are among those shown
    rank: int | None  # of the target, from 1; None if it was not ranked
    text: str | None  # the answer or the reasoning that the policy wrote


@dataclass(frozen=True)
class UserRow:
    """A user in the table of rankings."""

    key: Key
    slices: tuple[str, ...]
    num_candidates: int
    ranks: dict[str, int | None]  # by stage; baselines and phases


@dataclass(frozen=True)
class Wanted:
    """Which rows of the table of rankings are wanted, and in which order."""

    text: str = ""  # part of a user's or target's id, or of the target's title
    slice: str = ""  # name of a slice
    moved: str = ""  # up, down or same: the target between the stages ``before`` and ``after``
    before: str = ""  # a stage; "": the first phase
    after: str = ""  # a stage; "": the last phase
    sort: str = ""  # user, target, change, or a stage; "": as ranked
    descending: bool = False
    offset: int = 0
    limit: int = 50


@dataclass(frozen=True)
class Page:
    """Some rows of the table of rankings."""

    total: int  # rows that are wanted
    rows: list[UserRow]


class StoredRun:
    """A run as its folder describes it.

    Args:
        folder: that of mllmrec.train or mllmrec.evaluate.
        other_negatives: whether to read the rankings among the other kind of negatives.

    Attributes:
        alone: why there are rankings without weights and rollouts, as a sentence; None where a run has them.

    Raises:
        UserError: there is no such run, or its files are damaged.
    """

    def __init__(self, folder: str | Path, other_negatives: bool = False) -> None:
        self.path = RunFolder.of_finished_run(folder).path
        run = read_run(self.path)
        beside = run.among_other_negatives
        self.has_other_negatives = beside is not None
        if other_negatives:
            if beside is None:
                raise UserError(f"{folder} was ranked among one kind of negatives only")
            run = beside
        self.run: Run = run
        self.alone = rankings_alone(RunFolder(self.path))
        names = stages_in(run.path / "per_user.parquet")
        self.stages = stages_of(names, run.metrics, weights=self.alone is None)
        if not any(stage.kind == "phase" for stage in self.stages):
            raise UserError(
                f"{run.path / 'per_user.parquet'} holds no phase of metrics.json: the two files are from different runs"
            )
        self._records: dict[str, tuple[StageRecords, dict[Key, int]]] = {}

    @property
    def shown(self) -> list[Stage]:
        """Baselines and phases, in order."""
        return [stage for stage in self.stages if stage.kind in ("baseline", "phase")]

    @property
    def phases(self) -> list[Stage]:
        """The evaluated phases, in order."""
        return [stage for stage in self.stages if stage.kind == "phase"]

    def stage(self, name: str) -> Stage:
        """The stage of this name.

        Raises:
            UserError: there is none.
        """
        for stage in self.stages:
            if stage.name == name:
                return stage
        raise UserError(f"{self.path} has no phase {name}; it has {choices([s.name for s in self.stages])}")

    def records(self, name: str) -> tuple[StageRecords, dict[Key, int]]:
        """The records of a stage, and the place of each user and target among them."""
        if name not in self._records:
            stage = self.stage(name)
            path = self.run.path / "per_user.parquet"
            # For phases the reader also checks that metrics.json is of the same run.
            records = self.run.records(name) if stage.kind == "phase" else read_stage(path, name)
            places = {key: place for place, key in enumerate(_keys(records))}
            self._records[name] = records, places
        return self._records[name]

    @cached_property
    def keys(self) -> list[Key]:
        """The ranked users and targets, in the order of the first phase's records."""
        return list(self.records(self.phases[0].name)[1])

    def key(self, user: str, target: str | None = None, nth: int = 0) -> Key:
        """The key of a user's row; without a target, of the user's first.

        Raises:
            UserError: the run ranked no such user.
        """
        found = [key for key in self._by_user.get(user, []) if target in (None, key.target)]
        if len(found) <= nth:
            what = f"user {user}" if target is None else f"user {user} with target {target}"
            some = ", ".join(key.user for key in self.keys[:5])
            raise UserError(f"this run did not rank {what}; users are, for example, {some}")
        return found[nth]

    @cached_property
    def _by_user(self) -> dict[str, list[Key]]:
        found: dict[str, list[Key]] = {}
        for key in self.keys:
            found.setdefault(key.user, []).append(key)
        return found

    def ranking(self, name: str, key: Key) -> StoredRanking | None:
        """What a stage said about a user; None if it did not rank the user.

        Raises:
            UserError: there is no such stage.
        """
        stage = self.stage(name)
        records, places = self.records(name)
        place = places.get(key)
        if place is None:
            return None
        items = [str(item) for item in records.rankings[place]]
        rank = records.ranks[place]
        scores = None if records.scores is None else records.scores[place]
        return StoredRanking(
            stage,
            items,
            None if scores is None or len(scores) != len(items) else shown_values(scores, stage.measure),
            len(items) == int(records.num_candidates[place]),
            None if np.isnan(rank) else int(rank),
            None if records.texts is None else records.texts[place],
        )

    def rankings(self, key: Key) -> list[StoredRanking]:
        """What every stage said about a user, changed reasoning included; other weights of a phase are left out."""
        kept = [stage.name for stage in self.stages if stage.kind != "weights"]
        return [found for name in kept if (found := self.ranking(name, key)) is not None]

    def row(self, key: Key) -> UserRow:
        """A user's row of the table."""
        ranks: dict[str, int | None] = {}
        slices: Sequence[str] = ()
        count = 0
        for stage in self.shown:
            records, places = self.records(stage.name)
            place = places.get(key)
            rank = np.nan if place is None else records.ranks[place]
            ranks[stage.name] = None if np.isnan(rank) else int(rank)
            if place is not None:
                count = int(records.num_candidates[place])
                slices = () if records.slices is None else records.slices[place] or ()
        return UserRow(key, tuple(slices), count, ranks)

    @cached_property
    def rows(self) -> list[UserRow]:
        """The whole table, in the order of the first phase's records."""
        return [self.row(key) for key in self.keys]

    @property
    def slice_names(self) -> list[str]:
        """The slices that users belong to, in the order of metrics.json."""
        recorded = [name for part in self.run.metrics["slices"].values() for name in part]
        return list(dict.fromkeys([*recorded, *(name for row in self.rows for name in row.slices)]))

    def table(self, wanted: Wanted, title_of: Callable[[str], str] = str) -> Page:
        """Filter, sort and cut the table of rankings.

        Args:
            wanted: which rows, in which order.
            title_of: item id -> title; ids where titles are unknown.

        Raises:
            UserError: a stage, a sort key or a movement has no such name.
        """
        names = [stage.name for stage in self.shown]
        before = wanted.before or self.phases[0].name
        after = wanted.after or self.phases[-1].name
        for name in (before, after):
            if name not in names:
                raise UserError(f"{name}: no such phase; there are {choices(names)}")
        if wanted.moved not in ("", "up", "down", "same"):
            raise UserError(f"moved={wanted.moved}: up, down or same")

        def change(row: UserRow) -> int:
            """Places that the target gained; a target that was not ranked counts as behind all candidates."""
            first, second = (row.ranks[name] or row.num_candidates + 1 for name in (before, after))
            return first - second

        text = wanted.text.casefold().strip()
        rows = [
            row
            for row in self.rows
            if (not wanted.slice or wanted.slice in row.slices)
            and (not wanted.moved or wanted.moved == _movement(change(row)))
            and (not text or any(text in part.casefold() for part in _words(row, title_of)))
        ]
        sort_keys: dict[str, Callable[[UserRow], Any]] = {
            "user": lambda row: natural(row.key.user),
            "target": lambda row: title_of(row.key.target).casefold(),
            "change": change,
            **{name: lambda row, name=name: row.ranks[name] or row.num_candidates + 1 for name in names},  # type: ignore[misc]
        }
        if wanted.sort:
            if wanted.sort not in sort_keys:
                raise UserError(f"sort={wanted.sort}: one of {choices(list(sort_keys))}")
            rows.sort(key=sort_keys[wanted.sort], reverse=wanted.descending)
        return Page(len(rows), rows[wanted.offset : wanted.offset + wanted.limit])

    def measures(self) -> dict[str, Measure]:
        """What the scores of each stage are."""
        return {stage.name: stage.measure for stage in self.stages}


def natural(text: str) -> tuple[int, int, str]:
    """A sort key that puts 2 before 10, and numbers before names."""
    return (0, int(text), "") if text.isdecimal() else (1, 0, text.casefold())


def _movement(change: int) -> str:
    return "up" if change > 0 else "down" if change < 0 else "same"


def _words(row: UserRow, title_of: Callable[[str], str]) -> Iterable[str]:
    yield row.key.user
    yield row.key.target
    yield title_of(row.key.target)


def _keys(records: StageRecords) -> list[Key]:
    seen: Counter[tuple[str, str]] = Counter()
    found = []
    for user, target in zip(records.user_ids, records.target_ids, strict=True):
        pair = str(user), str(target)
        found.append(Key(*pair, seen[pair]))
        seen[pair] += 1
    return found
