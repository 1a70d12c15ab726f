"""Whether two runs of the same settings have the same results, and how far they are apart."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mllmrec.errors import UserError
from mllmrec.evaluation.records import StageRecords, read_stage, stages_in
from mllmrec.run.folder import RunFolder
from mllmrec.run.log_rows import read_log

_CLOCKS = ("seconds",)  # columns of the log
_ABSENT = "nothing"
# Of the texts of reasoning, what an attempt wrote and what it found in the cache.
_OF_ATTEMPTS = re.compile(r"cot\.stages\.\w+\.(written|from_cache|prompt_tokens|completion_tokens)")


@dataclass(frozen=True)
class Compared:
    """The same file of two runs.

    Attributes:
        what: the file.
        values: how many values were compared.
        differing: how many of them differ.
        largest: the largest difference of two numbers; None if no numbers differ.
        where: the name of a value that differs, with both values: of the first that is no number in one of the runs, or
            of the one with the largest difference. Empty if nothing differs.
    """

    what: str
    values: int
    differing: int
    largest: float | None
    where: str

    @property
    def result(self) -> str:
        """In words."""
        if not self.differing:
            return "equal"
        size = "" if self.largest is None else f", numbers by at most {self.largest:.3g}"
        return f"{self.differing:,} differ{size}"


def compared_runs(first: RunFolder, second: RunFolder) -> list[Compared]:
    """Compare everything that depends only on settings, data, code and arithmetic: no costs and no clocks.

    Args:
        first: a finished run.
        second: another run of the same settings.

    Raises:
        UserError: a file of one of them is damaged.
    """
    both = (first, second)
    found = [compared_values("data.json", *(_data(run.data_path) for run in both))]
    places = [("", both)]
    if any(run.beside_path.is_dir() for run in both):
        places.append(
            (f"{first.beside_path.name}/", (RunFolder(first.beside_path), RunFolder(second.beside_path)))
        )
    for prefix, runs in places:
        numbers = [dict(leaves({**run.metrics(), "cost": {}})) for run in runs]
        found.append(compared_values(f"{prefix}metrics.json", *numbers))
        found.append(_compared_ranks(f"{prefix}per_user.parquet", *(run.per_user_path for run in runs)))
    found.append(compared_values("log.csv", *(_logged(run.log_path) for run in both)))
    return found


def compared_values(what: str, first: Mapping[str, Any], second: Mapping[str, Any]) -> Compared:
    """Compare values by name; a value that only one of the two has differs."""
    other, gaps = [], {}
    names = dict.fromkeys([*first, *second])
    for name in names:
        one, two = first.get(name, _ABSENT), second.get(name, _ABSENT)
        if one == two and type(one) is type(two):
            continue
        if _is_number(one) and _is_number(two):
            gaps[name] = abs(one - two)
        else:
            other.append(name)
    gaps = {name: gap for name, gap in gaps.items() if gap != 0}  # 1 and 1.0
    where = other[0] if other else max(gaps, key=gaps.__getitem__, default="")
    return Compared(
        what,
        len(names),
        len(other) + len(gaps),
        max(gaps.values(), default=None),
        where and f"{where}: {first.get(where, _ABSENT)}, again {second.get(where, _ABSENT)}",
    )


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The values inside mappings and lists, each with its path: ``stages.grpo.HR@1``, ``intervals.grpo.HR@1[0]``."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from leaves(inner, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            yield from leaves(inner, f"{path}[{place}]")
    else:
        yield path, value


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _data(path: Path) -> dict[str, Any]:
    """What is known of a run's data, by its path."""
    return {name: value for name, value in leaves(_json(path)) if not _OF_ATTEMPTS.fullmatch(name)}


def _json(path: Path) -> Any:
    if not path.exists():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}): put a copy in its place, or run again") from error


def _logged(path: Path) -> dict[str, Any]:
    """The values of a `log.csv`, each named by its phase, step and column."""
    found: dict[str, Any] = {}
    for row in read_log(path) if path.exists() else []:
        for column, text in row.items():
            if column not in ("stage", "step", *_CLOCKS):
                found[f"{row['stage']} step {row['step']} {column}"] = _number_in(text)
    return found


def _number_in(text: str) -> float | str:
    try:
        number = float(text)
    except ValueError:
        return text
    return number if math.isfinite(number) else text


def _compared_ranks(what: str, first: Path, second: Path) -> Compared:
    """Compare the ranks of all users in every phase."""
    stages = [dict.fromkeys(stages_in(path)) if path.exists() else {} for path in (first, second)]
    users, differing, largest, where = 0, 0, 0.0, ""
    for stage in {**stages[0], **stages[1]}:
        if any(stage not in those for those in stages):
            has = "the run" if stage in stages[0] else "the second run"
            return Compared(what, users, differing + 1, None, f"{stage}: only in {has}")
        one, two = read_stage(first, stage), read_stage(second, stage)
        if not _same_users(one, two):
            return Compared(what, users, differing + 1, None, f"{stage}: other users or targets")
        users += len(one)
        # A target that one of the two did not rank at all is as far away as the last place.
        places = [np.where(np.isnan(r.ranks), r.num_candidates + 1, r.ranks) for r in (one, two)]
        gaps = np.abs(places[0] - places[1])
        differing += int((gaps > 0).sum())
        if gaps.size and (gap := float(gaps.max())) > largest:
            user = int(gaps.argmax())
            largest = gap
            where = f"{stage} user {one.user_ids[user]}: {places[0][user]:.0f}, again {places[1][user]:.0f}"
    return Compared(what, users, differing, largest or None, where)


def _same_users(one: StageRecords, two: StageRecords) -> bool:
    return all(
        np.array_equal(getattr(one, column), getattr(two, column)) for column in ("user_ids", "target_ids")
    )
