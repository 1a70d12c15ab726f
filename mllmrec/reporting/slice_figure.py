"""The picture of the slices: every row's result in parts of the users, with intervals."""

from __future__ import annotations

from matplotlib.figure import Figure
from matplotlib.transforms import ScaledTranslation

from mllmrec.evaluation.slices import COLD, HEAD, MIDDLE, TAIL
from mllmrec.reporting.experiment import Experiment
from mllmrec.reporting.row_styles import COLOURS
from mllmrec.reporting.tables import label_of

WIDTH = 9.0  # inches
# Divisions of the users; what no division names has one of its own.
DIVISIONS = {
    "by the target's count in training": (COLD, TAIL, MIDDLE, HEAD),
    "by the history shown": ("short", "long"),
    "by the target's image": ("image", "no image"),
}


def families(experiment: Experiment) -> list[tuple[str, list[int]]]:
    """The divisions that the runs recorded: title, and the places of their slices in ``experiment.slices``."""
    named = {name: title for title, names in DIVISIONS.items() for name in names}
    found: dict[str, list[int]] = {}
    for place, part in enumerate(experiment.slices):
        found.setdefault(named.get(part.name, "other parts"), []).append(place)
    return list(found.items())


def slice_figure(experiment: Experiment) -> tuple[Figure, str, str] | None:
    """One panel per division, one line per row and slice; None if the runs recorded no slices."""
    if not experiment.slices:
        return None
    panels = families(experiment)
    rows = len(experiment.scores)
    legends = 0.2 * max(len(places) for _, places in panels)  # inches
    figure = Figure(figsize=(WIDTH, 1.3 + rows * 0.34 + legends), layout="constrained")
    below = ScaledTranslation(0, -0.4, figure.dpi_scale_trans)  # the ticks and the name of the metric
    axes = figure.subplots(1, len(panels), sharey=True, sharex=True, squeeze=False)[0]
    for axis, (title, places) in zip(axes, panels, strict=True):
        for number, place in enumerate(places):
            part = experiment.slices[place]
            heights = [row + 0.7 * ((number + 0.5) / len(places) - 0.5) for row in range(rows)]
            reach = [
                [max(0.0, mean - ends[0]), max(0.0, ends[1] - mean)] if ends else [0.0, 0.0]
                for mean, ends in zip(part.means, part.intervals, strict=True)
            ]
            axis.errorbar(
                part.means,
                heights,
                xerr=list(zip(*reach, strict=True)),
                color=COLOURS[number % len(COLOURS)],
                marker="o",
                markersize=3.5,
                linestyle="none",
                linewidth=1.1,
                label=f"{part.name} (n = {part.users:,})",
            )
        axis.set_title(title, fontsize=9)
        axis.set_xlabel(experiment.metric)
        axis.legend(
            loc="upper center",
            bbox_to_anchor=(0.5, 0),
            bbox_transform=axis.transAxes + below,
            fontsize=8,
            frameon=False,
        )
    axes[0].set_yticks(range(rows), [label_of(entry) for entry in experiment.scores], fontsize=9)
    axes[0].set_ylim(rows - 0.5, -0.5)
    few = ", ".join(part.name for part in experiment.slices if part.few)
    caption = f"{experiment.metric} in parts of the test users, with 95 % bootstrap intervals over users."
    if held := _holds(experiment):
        caption += f" {held}."
    if few:
        caption += f" Too few users to say much: {few}."
    return figure, f"{experiment.metric} in parts of the users, with intervals", caption


def _holds(experiment: Experiment) -> str:
    """What the slices hold, in the words of the first run."""
    first = experiment.rows[0].runs[0]
    known = first.metrics["slices"].get(first.stages[-1], {})
    said = [(part.name, known.get(part.name, {}).get("holds")) for part in experiment.slices]
    words = "; ".join(f"{name}: {holds}" for name, holds in said if holds)
    return words[:1].upper() + words[1:]
