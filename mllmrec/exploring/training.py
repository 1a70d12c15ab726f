"""How training went: results in parts of the users, and the sampled rollouts step by step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mllmrec.config.kinds import stage_title
from mllmrec.errors.disk import refusing_damage
from mllmrec.reporting.runs import Run
from mllmrec.run.log_rows import read_log
from mllmrec.run.rollouts import Rollout, read_rollouts


@dataclass(frozen=True)
class SliceRow:
    """The result of one stage in one slice of the users."""

    slice: str
    holds: str  # what the users of the slice have in common
    users: int
    few: bool  # too few users to say much
    stage: str
    title: str  # of the stage
    means: dict[str, float]  # metric -> mean
    intervals: dict[str, list[float]]  # metric -> [low, high]; none for a single user


def slice_rows(run: Run) -> list[SliceRow]:
    """Every stage in every slice, slice by slice, all users first; nothing else if the run recorded no slices."""
    metrics = run.metrics
    found = []
    users = int(metrics["protocol"].get("users", 0))
    whole = {
        **{name: (part["metrics"], part["intervals"]) for name, part in metrics["baselines"].items()},
        **{name: (means, metrics["intervals"].get(name, {})) for name, means in metrics["stages"].items()},
    }
    for name, (means, intervals) in whole.items():
        found.append(SliceRow("all", "all users", users, False, name, stage_title(name), means, intervals))
    for name, parts in metrics["slices"].items():
        for part, content in parts.items():
            found.append(
                SliceRow(
                    part,
                    content["holds"],
                    content["users"],
                    content["few"],
                    name,
                    stage_title(name),
                    content["metrics"],
                    content["intervals"],
                )
            )
    places = {name: place for place, name in enumerate(dict.fromkeys(row.slice for row in found))}
    return sorted(found, key=lambda row: places[row.slice])


@dataclass(frozen=True)
class Sampled:
    """A sampled rollout and its place."""

    number: int  # among all rollouts of the run
    rollout: Rollout


@dataclass(frozen=True)
class Timeline:
    """The sampled rollouts of a run over its steps."""

    rollouts: list[Sampled]
    steps: list[int]
    parts: list[str]  # names of the rewards' parts
    logged: dict[str, list[tuple[int, float]]]  # phase -> (step, mean reward of all rollouts of the step)


def timeline(folder: Path) -> Timeline:
    """The rollouts of a run folder; a run without any has an empty timeline.

    Raises:
        UserError: a file is damaged.
    """
    path = folder / "rollouts.parquet"
    rollouts = read_rollouts(path) if path.is_file() else []
    parts = list(dict.fromkeys(name for rollout in rollouts for name in rollout.parts))
    steps = sorted({rollout.step for rollout in rollouts})
    sampled = [Sampled(number, rollout) for number, rollout in enumerate(rollouts)]
    return Timeline(sampled, steps, parts, _logged_rewards(folder / "log.csv"))


def _logged_rewards(path: Path) -> dict[str, list[tuple[int, float]]]:
    found: dict[str, list[tuple[int, float]]] = {}
    if not path.is_file():
        return found
    with refusing_damage(path):
        rows: Sequence[dict[str, Any]] = read_log(path)
        for row in rows:
            if "reward" in row and math.isfinite(value := float(row["reward"])):
                found.setdefault(str(row["stage"]), []).append((int(row["step"]), value))
    return {stage: sorted(points) for stage, points in found.items()}


def chosen(line: Timeline, step: int | None, text: str, limit: int) -> list[Sampled]:
    """The rollouts of a step (None: of all) whose prompt or completion has ``text`` in it, the first ``limit``."""
    wanted = text.casefold().strip()
    found = [
        one
        for one in line.rollouts
        if (step is None or one.rollout.step == step)
        and (
            not wanted
            or wanted in one.rollout.completion.casefold()
            or wanted in one.rollout.prompt_id.casefold()
        )
    ]
    return found[:limit]
