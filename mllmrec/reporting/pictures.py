"""The pictures of a report: learning, sensitivity, parts of the users, reward inflation, and cost against quality."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mllmrec.cache import atomic_path
from mllmrec.config.kinds import stage_title
from mllmrec.reporting import charts
from mllmrec.reporting.charts import Chart
from mllmrec.reporting.comparison import Scores
from mllmrec.reporting.experiment import Experiment
from mllmrec.reporting.row_styles import COLOURS, marker, style
from mllmrec.reporting.rows import numeric_key
from mllmrec.reporting.series import SMOOTHED_POINTS, Logs, Series
from mllmrec.reporting.slice_figure import WIDTH, families, slice_figure
from mllmrec.reporting.tables import label_of

_LABEL = 38  # characters in a line above a narrow panel
_TICKS = 8  # up to so many values of a setting all get a label
_CLOSEST = 0.05  # share of the axis; labels of closer values overlap
_RC: Any = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "text.parse_math": False,  # labels may hold any text
}


@dataclass(frozen=True)
class Picture:
    """One drawn picture."""

    name: str  # of its file, without ending
    title: str
    caption: str
    path: Path
    chart: Chart | None = None  # its points, for the page


_Painter = Callable[[Experiment, Logs], tuple[Figure, str, str] | None]


def draw_pictures(experiment: Experiment, folder: Path) -> list[Picture]:
    """Draw the pictures for which the runs have data.

    Args:
        experiment: the scored experiment.
        folder: the folder for the PNG files.
    """
    import matplotlib

    logs = Logs(experiment.rows)
    drawn = []
    painters: dict[str, tuple[_Painter, Callable[[], Chart | None]]] = {
        "learning": (learning_curves, lambda: charts.learning(experiment, logs)),
        "sensitivity": (sensitivity, lambda: charts.sensitivity(experiment, *sensitivity_lines(experiment))),
        "slices": (
            lambda experiment, _: slice_figure(experiment),
            lambda: charts.parts(experiment, families(experiment)),
        ),
        "inflation": (inflation, lambda: charts.inflation(experiment, logs)),
        "cost": (cost_against_quality, lambda: charts.cost(experiment)),
    }
    with matplotlib.rc_context(_RC):
        for name, (paint, chart) in painters.items():
            painted = paint(experiment, logs)
            if painted is None:
                continue
            figure, title, caption = painted
            path = folder / f"{name}.png"
            with atomic_path(path) as temporary:
                figure.savefig(temporary, dpi=150, format="png")
            drawn.append(Picture(name, title, caption, path, chart()))
    return drawn


def learning_curves(experiment: Experiment, logs: Logs) -> tuple[Figure, str, str] | None:
    """The main metric on held-out users over the steps of each phase, one line per row."""
    column = f"val/{experiment.metric}"
    stages = logs.stages(column)
    if not stages:
        return None
    figure = Figure(figsize=(WIDTH, 3.6), layout="constrained")
    axes = figure.subplots(1, len(stages), sharey=True, squeeze=False)[0]
    drawn = set()
    for axis, stage in zip(axes, stages, strict=True):
        for place, entry in enumerate(experiment.scores):
            series = logs.series(entry.row, stage, column)
            if series is None:
                continue
            colour, dash = style(place)
            axis.plot(series.steps, series.mean, color=colour, linestyle=dash, marker="o", markersize=3)
            if len(entry.row.runs) > 1:
                axis.fill_between(
                    series.steps, series.low, series.high, color=colour, alpha=0.15, linewidth=0
                )
            drawn.add(place)
        axis.set_title(stage_title(stage), fontsize=10)
        axis.set_xlabel("step")
    axes[0].set_ylabel(f"held-out {experiment.metric}")
    _legend_below(figure, axes[0], [(place, label_of(experiment.scores[place])) for place in sorted(drawn)])
    band = "; bands span the smallest and largest seed" if _several_seeds(experiment) else ""
    return (
        figure,
        "Learning curves",
        f"{experiment.metric} on held-out (validation) users during training{band}.",
    )


def sensitivity(experiment: Experiment, logs: Logs) -> tuple[Figure, str, str] | None:
    """The main metric against the one numeric setting that varies, one line for each choice of the others."""
    lines, key = sensitivity_lines(experiment)
    if max((len(points) for points in lines.values()), default=0) < 2:
        return None
    known = sorted({value for points in lines.values() for value, _ in points})
    logarithmic = known[0] > 0 and known[-1] / known[0] > 50
    crowded = np.diff(known).min(initial=np.inf) < _CLOSEST * (known[-1] - known[0])
    evenly = crowded and not logarithmic and len(known) <= _TICKS
    figure = Figure(figsize=(WIDTH * 0.75, 3.6), layout="constrained")
    axis = figure.subplots()
    for place, points in enumerate(lines.values()):
        values = np.array([known.index(value) if evenly else value for value, _ in points])
        rows = [experiment.scores[row] for _, row in points]
        intervals = np.array([entry.intervals[experiment.metric] for entry in rows])
        colour, dash = style(place)
        means = [entry.mean(experiment.metric) for entry in rows]
        axis.plot(values, means, color=colour, linestyle=dash, marker="o", markersize=4)
        axis.fill_between(values, intervals[:, 0], intervals[:, 1], color=colour, alpha=0.15, linewidth=0)
    if logarithmic:
        _logarithmic(axis)
    if len(known) <= _TICKS:
        axis.set_xticks(range(len(known)) if evenly else known, [f"{value:g}" for value in known])
        axis.minorticks_off()
    axis.set_xlabel(key)
    axis.set_ylabel(experiment.metric)
    if len(lines) > 1:
        _legend_below(figure, axis, list(enumerate(lines)))
    spacing = " (values evenly spaced)" if evenly else ""
    caption = (
        f"{experiment.metric} on test users against {key}{spacing}; "
        "bands are 95 % bootstrap intervals over users."
    )
    return figure, f"Sensitivity to {key}", caption


def sensitivity_lines(experiment: Experiment) -> tuple[dict[str, list[tuple[float, int]]], str]:
    """The rows along the one numeric setting that varies.

    Returns:
        The choices of the other settings -> (value, place of the row), ascending; empty if no such setting, or several, vary.
        And the setting's key.
    """
    key = numeric_key(experiment.rows)
    lines: dict[str, list[tuple[float, int]]] = {}
    for place, row in enumerate(experiment.rows if key is not None else ()):
        others = " ".join(f"{name}={value}" for name, value in row.settings.items() if name != key)
        lines.setdefault(others, []).append((float(row.settings[key or ""]), place))
    return {others: sorted(points) for others, points in lines.items()}, key or ""


def inflation(experiment: Experiment, logs: Logs) -> tuple[Figure, str, str] | None:
    """Training reward beside held-out ranking over GRPO's steps, one panel per row."""
    column = f"val/{experiment.metric}"
    parts = {
        "reward": ("-", "training reward (normalised)"),
        "reward_with_cot": ("--", "reward, prompts with reasoning"),
        "reward_without_cot": (":", "reward, prompts without reasoning"),
    }
    panels = [entry for entry in experiment.scores if logs.series(entry.row, "grpo", "reward") is not None]
    if not panels:
        return None
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(WIDTH, 0.6 + 2.7 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()
    held_out_limits = _limits([logs.series(entry.row, "grpo", column) for entry in panels])
    handles = {}
    # All panels share one scale, so that readers can compare how high rewards get.
    drawn = [
        [
            (series, dash, label)
            for name, (dash, label) in parts.items()
            if (series := logs.series(entry.row, "grpo", name, SMOOTHED_POINTS)) is not None
        ]
        for entry in panels
    ]
    low = min(series.mean.min() for shown in drawn for series, _, _ in shown)
    span = max(series.mean.max() for shown in drawn for series, _, _ in shown) - low or 1.0
    for place, (axis, entry, shown) in enumerate(zip(axes, panels, drawn, strict=False)):
        for series, dash, label in shown:
            handles[label] = axis.plot(
                series.steps, (series.mean - low) / span, color=COLOURS[0], linestyle=dash, linewidth=1.4
            )[0]
        axis.set_ylim(-0.05, 1.05)
        axis.set_title(fill(label_of(entry), _LABEL), fontsize=9)
        if place >= len(panels) - columns:
            axis.set_xlabel("GRPO step")
        axis.tick_params(axis="y", labelcolor=COLOURS[0])
        held_out = logs.series(entry.row, "grpo", column)
        if held_out is None:
            continue
        right = axis.twinx()
        label = f"held-out {experiment.metric} (right)"
        handles[label] = right.plot(
            held_out.steps, held_out.mean, color=COLOURS[1], marker="o", markersize=3.5, linewidth=1.4
        )[0]
        right.set_ylim(*held_out_limits)
        right.grid(False)
        last_of_line = place % columns == columns - 1 or place == len(panels) - 1
        right.tick_params(axis="y", labelcolor=COLOURS[1], labelright=last_of_line, right=last_of_line)
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=2, frameon=False)
    caption = (
        f"Training reward beside held-out {experiment.metric} during GRPO. Inflated reward rises while the held-out metric "
        "does not. Rewards are running means, averaged over seeds; all panels share one scale for rewards and one for "
        "held-out values."
    )
    return figure, "Reward and held-out ranking", caption


def cost_against_quality(experiment: Experiment, logs: Logs) -> tuple[Figure, str, str] | None:
    """The main metric against the seconds of all phases, one labelled point per row."""
    points = [(place, entry) for place, entry in enumerate(experiment.scores) if entry.seconds is not None]
    if len(points) < 2:
        return None
    figure = Figure(figsize=(WIDTH * 0.85, 3.9), layout="constrained")
    axis = figure.subplots()
    seconds = np.array([entry.seconds for _, entry in points])
    for place, entry in points:
        mean = entry.mean(experiment.metric)
        low, high = entry.intervals[experiment.metric]
        axis.errorbar(
            [float(entry.seconds or 0.0)],
            [mean],
            yerr=[[max(0.0, mean - low)], [max(0.0, high - mean)]],
            color=style(place)[0],
            marker=marker(place),
            markersize=6,
            capsize=3,
            linewidth=1.2,
        )
    if seconds.min() > 0 and seconds.max() / seconds.min() > 20:
        _logarithmic(axis)
    axis.margins(x=0.12, y=0.12)
    axis.set_xlabel("seconds of all phases, mean over seeds")
    axis.set_ylabel(experiment.metric)
    _label_on_the_right(axis, points, experiment.metric)
    caption = (
        f"{experiment.metric} on test users, with its 95 % interval, against training time. Compare times only between "
        "runs on the same machine."
    )
    return figure, "Cost against quality", caption


def _label_on_the_right(axis: Axes, points: Sequence[tuple[int, Scores]], metric: str) -> None:
    """Put every point's label in one column beside the axis, ordered by height, with a line to its point."""
    ordered = sorted(points, key=lambda point: point[1].mean(metric))
    low, high = axis.get_ylim()
    heights = np.array([(entry.mean(metric) - low) / (high - low) for _, entry in ordered])
    gap = min(0.075, 1.0 / len(ordered))
    for index in range(1, len(heights)):
        heights[index] = max(heights[index], heights[index - 1] + gap)
    heights -= max(0.0, heights[-1] - 1.0)
    for index in range(len(heights) - 2, -1, -1):
        heights[index] = min(heights[index], heights[index + 1] - gap)
    for height, (place, entry) in zip(heights, ordered, strict=True):
        colour = style(place)[0]
        axis.annotate(
            label_of(entry),
            xy=(float(entry.seconds or 0.0), entry.mean(metric)),
            xycoords="data",
            xytext=(1.02, height),
            textcoords="axes fraction",
            color=colour,
            fontsize=9,
            va="center",
            arrowprops={
                "arrowstyle": "-",
                "relpos": (0.0, 0.5),
                "color": colour,
                "alpha": 0.4,
                "linewidth": 0.8,
            },
            annotation_clip=False,
        )


def _logarithmic(axis: Axes) -> None:
    axis.set_xscale("log")
    axis.xaxis.set_major_formatter("{x:g}")  # the usual one writes formulas
    axis.xaxis.set_minor_formatter("")


def _legend_below(figure: Figure, axis: Axes, labelled: Sequence[tuple[int, str]]) -> None:
    handles = [
        axis.plot([], [], color=style(place)[0], linestyle=style(place)[1], marker="o", markersize=3)[0]
        for place, _ in labelled
    ]
    longest = max(len(label) for _, label in labelled)
    columns = max(1, min(len(labelled), 110 // (longest + 8)))
    figure.legend(
        handles,
        [label for _, label in labelled],
        loc="outside lower center",
        ncols=columns,
        frameon=False,
        fontsize=9,
    )


def _limits(found: Sequence[Series | None]) -> tuple[float, float]:
    values = [series.mean for series in found if series is not None]
    if not values:
        return 0.0, 1.0
    low, high = float(min(map(np.min, values))), float(max(map(np.max, values)))
    margin = 0.1 * (high - low) or 0.05
    return low - margin, high + margin


def _several_seeds(experiment: Experiment) -> bool:
    return any(len(row.runs) > 1 for row in experiment.rows)
