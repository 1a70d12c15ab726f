"""Charts that the page draws itself: the points of each picture, which a reader can point at, hide and enlarge."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from mllmrec.config.kinds import stage_title
from mllmrec.reporting.experiment import Experiment
from mllmrec.reporting.row_styles import style
from mllmrec.reporting.series import SMOOTHED_POINTS, Logs, Series
from mllmrec.reporting.tables import label_of

MOST_POINTS = 100  # of a line; others between them are left out
DIGITS = 5
# Columns of log.csv beside the held-out metric: heading.
LOGGED = {
    "loss": "loss (running mean)",
    "reward": "reward (running mean)",
    "kl": "KL to the reference (running mean)",
    "entropy": "entropy (running mean)",
    "completions/mean_length": "tokens of an answer (running mean)",
    "frac_reward_zero_std": "groups of equal rewards (running mean)",
}


@dataclass(frozen=True)
class Line:
    """Points of one entry of the legend; N points, ascending in x."""

    entry: int  # place in the legend
    name: str  # what a point of it says
    x: list[float]
    y: list[float]
    low: list[float | None] | None = None  # of an interval
    high: list[float | None] | None = None
    joined: bool = True  # whether a line goes through the points
    faint: bool = False  # one seed behind the mean of all
    right: bool = False  # on a scale of its own, on the right


@dataclass(frozen=True)
class Panel:
    """One pair of axes."""

    title: str
    x_label: str
    lines: list[Line]
    x_names: list[str] | None = None  # of x = 0, 1, 2 …; None if x is a number
    logarithmic: bool = False
    steps: bool = False  # whether x counts steps


@dataclass(frozen=True)
class View:
    """Panels that share one vertical scale, shown together."""

    y_label: str
    panels: list[Panel]


@dataclass(frozen=True)
class Entry:
    """A part of the legend, which a reader can hide."""

    label: str
    colour: str
    dash: str


@dataclass(frozen=True)
class Chart:
    """One picture in numbers: views to choose from, and a legend that they share."""

    entries: list[Entry]
    views: list[View] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Plain values for the page; numbers that are not finite are None."""
        return _plain(self)


def learning(experiment: Experiment, logs: Logs) -> Chart | None:
    """The held-out metric over the steps of each phase, and other logged values; a line for each seed and their mean."""
    columns = {f"val/{experiment.metric}": f"held-out {experiment.metric}", **LOGGED}
    views = []
    for column, heading in columns.items():
        smoothed = SMOOTHED_POINTS if column in LOGGED else 0
        panels = []
        for stage in logs.stages(column):
            lines = [
                line
                for place, entry in enumerate(experiment.scores)
                for line in _learning_lines(experiment, logs, place, stage, column, smoothed)
                if logs.series(entry.row, stage, column) is not None
            ]
            if lines:
                panels.append(Panel(stage_title(stage), "step", lines, steps=True))
        if panels:
            views.append(View(heading, panels))
    return Chart(_rows(experiment), views) if views else None


def _learning_lines(
    experiment: Experiment, logs: Logs, place: int, stage: str, column: str, smoothed: int
) -> list[Line]:
    row = experiment.scores[place].row
    seeds = logs.runs(row, stage, column, smoothed)
    label = label_of(experiment.scores[place])
    mean = logs.series(row, stage, column, smoothed)
    several = len(row.runs) > 1
    lines = [
        _thinned(series, place, f"{label}, seed {run.seed}, run {run.path.name}", faint=several)
        for run, series in seeds
    ]
    if several and mean is not None:
        lines.append(_thinned(mean, place, f"{label}, mean of {len(row.runs)} seeds"))
    return lines


def sensitivity(experiment: Experiment, lines: dict[str, list[tuple[float, int]]], key: str) -> Chart:
    """The metric on test users against one numeric setting.

    Args:
        experiment: the scored experiment.
        lines: what else distinguishes rows -> (value of the setting, place of the row), ascending.
        key: the setting.
    """
    entries, drawn = [], []
    for number, (others, points) in enumerate(lines.items()):
        entries.append(_entry(others or experiment.metric, number))
        drawn.append(
            Line(
                number,
                others or key,
                [value for value, _ in points],
                *_scores(experiment, [row for _, row in points]),
            )
        )
    values = [value for line in drawn for value in line.x]
    logarithmic = min(values) > 0 and max(values) / min(values) > 50
    return Chart(entries, [View(experiment.metric, [Panel("", key, drawn, logarithmic=logarithmic)])])


def inflation(experiment: Experiment, logs: Logs) -> Chart | None:
    """Training reward and held-out metric over GRPO's steps, one panel per row."""
    held_out = f"val/{experiment.metric}"
    shown = {
        "reward": Entry("training reward (running mean)", "#0072B2", "-"),
        "reward_with_cot": Entry("reward, prompts with reasoning", "#0072B2", "--"),
        "reward_without_cot": Entry("reward, prompts without reasoning", "#0072B2", ":"),
        held_out: Entry(f"held-out {experiment.metric} (right)", "#D55E00", "-"),
    }
    panels: list[Panel] = []
    used: set[int] = set()
    for entry in experiment.scores:
        lines = []
        for number, (column, said) in enumerate(shown.items()):
            right = column == held_out
            series = logs.series(entry.row, "grpo", column, 0 if right else SMOOTHED_POINTS)
            if series is not None:
                lines.append(_thinned(series, number, said.label, right=right))
        if logs.series(entry.row, "grpo", "reward") is not None:
            panels.append(Panel(label_of(entry), "GRPO step", lines, steps=True))
            used.update(line.entry for line in lines)
    if not panels:
        return None
    kept = sorted(used)
    panels = [
        replace(panel, lines=[replace(line, entry=kept.index(line.entry)) for line in panel.lines])
        for panel in panels
    ]
    return Chart([list(shown.values())[number] for number in kept], [View("reward", panels)])


def cost(experiment: Experiment) -> Chart:
    """The metric on test users against the seconds of all phases, one point per row."""
    places = [place for place, entry in enumerate(experiment.scores) if entry.seconds is not None]
    seconds = [float(experiment.scores[place].seconds or 0.0) for place in places]
    lines = [
        Line(place, entry_label, [value], *_scores(experiment, [place]), joined=False)
        for place, value in zip(places, seconds, strict=True)
        for entry_label in [label_of(experiment.scores[place])]
    ]
    logarithmic = min(seconds) > 0 and max(seconds) / min(seconds) > 20
    panel = Panel("", "seconds of all phases, mean over seeds", lines, logarithmic=logarithmic)
    return Chart(_rows(experiment), [View(experiment.metric, [panel])])


def parts(experiment: Experiment, families: Sequence[tuple[str, Sequence[int]]]) -> Chart:
    """The metric in parts of the users, one panel per division.

    Args:
        experiment: the scored experiment, with slices.
        families: of each division its title and its slices' places.
    """
    count = len(experiment.scores)
    panels = []
    for title, places in families:
        slices = [experiment.slices[place] for place in places]
        lines = []
        for row, entry in enumerate(experiment.scores):
            beside = 0.7 * ((row + 0.5) / count - 0.5)  # rows stand beside each other
            ends = [part.intervals[row] or [math.nan, math.nan] for part in slices]
            lines.append(
                Line(
                    row,
                    label_of(entry),
                    [number + beside for number in range(len(slices))],
                    [part.means[row] for part in slices],
                    [low for low, _ in ends],
                    [high for _, high in ends],
                    joined=False,
                )
            )
        names = [f"{part.name} (n = {part.users:,})" for part in slices]
        panels.append(Panel(title, "", lines, x_names=names))
    return Chart(_rows(experiment), [View(experiment.metric, panels)])


def _scores(
    experiment: Experiment, places: Sequence[int]
) -> tuple[list[float], list[float | None], list[float | None]]:
    entries = [experiment.scores[place] for place in places]
    ends = [entry.intervals[experiment.metric] for entry in entries]
    return (
        [entry.mean(experiment.metric) for entry in entries],
        [end[0] for end in ends],
        [end[1] for end in ends],
    )


def _rows(experiment: Experiment) -> list[Entry]:
    return [_entry(label_of(entry), place) for place, entry in enumerate(experiment.scores)]


def _entry(label: str, place: int) -> Entry:
    return Entry(label, *style(place))


def _thinned(series: Series, entry: int, name: str, faint: bool = False, right: bool = False) -> Line:
    count = len(series.steps)
    kept = np.unique(np.linspace(0, count - 1, min(count, MOST_POINTS)).round().astype(int))
    return Line(
        entry, name, series.steps[kept].tolist(), series.mean[kept].tolist(), faint=faint, right=right
    )


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if hasattr(value, "__dataclass_fields__"):
        return {name: _plain(getattr(value, name)) for name in value.__dataclass_fields__}
    return value
