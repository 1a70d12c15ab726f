"""`curves.png`: the logged values over the steps of all phases."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mllmrec.cache import atomic_path
from mllmrec.config.kinds import stage_title
from mllmrec.errors import UserError

STAGE_COLOURS = ("#dfe8f2", "#f3ead9", "#e2efdf", "#efe0ec")
HELD_OUT = ("val/HR@1", "val/HR@3", "val/NDCG@3")
SMOOTHED_POINTS = 30  # a noisy series is drawn behind its running mean over 1/30 of a phase
SMALLEST_SHARE = 0.22  # of the axis: keeps a few hundred GRPO steps legible after thousands of SFT


def _time_axis(log: pd.DataFrame) -> tuple[np.ndarray, list[tuple[str, float, float, float]]]:
    """The position of each row on the shared axis, and each phase's (name, start, end, last step)."""
    last_steps = log.groupby("stage", sort=False)["step"].max().clip(lower=1)
    widths = (last_steps / last_steps.sum()).clip(lower=SMALLEST_SHARE)
    position = np.zeros(len(log))
    spans = []
    start = 0.0
    for stage, last, width in zip(last_steps.index, last_steps, widths, strict=True):
        rows = (log["stage"] == stage).to_numpy()
        position[rows] = start + log.loc[rows, "step"].to_numpy(dtype=float) / last * width
        spans.append((str(stage), start, start + width, float(last)))
        start = spans[-1][2]
    return position, spans


def _plot(
    axis: Axes, log: pd.DataFrame, position: np.ndarray, column: str, colour: str, smooth: bool
) -> None:
    logged = log[column].notna().to_numpy()
    for stage in log["stage"].drop_duplicates():
        rows = (log["stage"] == stage).to_numpy() & logged
        order = np.argsort(position[rows], kind="stable")
        places, values = position[rows][order], log.loc[rows, column].to_numpy(dtype=float)[order]
        if not smooth:
            axis.plot(places, values, color=colour, marker="o", markersize=3.5, linewidth=1.4)
            continue
        window = max(1, len(values) // SMOOTHED_POINTS)
        if window > 1:
            axis.plot(places, values, color=colour, alpha=0.25, linewidth=0.7)
        mean = pd.Series(values).rolling(window, min_periods=1, center=True).mean()
        axis.plot(places, mean, color=colour, linewidth=1.6)
    axis.plot([], [], color=colour, label=column.removeprefix("val/"))


def _spans_decades(values: pd.Series) -> bool:
    positive = values[values > 0]
    return len(positive) > 1 and bool(positive.max() > 300 * positive.median())


def draw_curves(log_csv: Path, out: Path) -> bool:
    """Draw training loss, reward, KL and held-out HR/NDCG over all steps, with shaded and named phases.

    The phases follow each other on one axis. Each width is proportional to the phase's steps, with a minimum; ticks count
    each phase's own steps. Panels without logged columns are left out.

    Returns:
        Whether there was anything to draw: a run too short to log a step has no picture.

    Raises:
        UserError: the log is missing.
    """
    if not log_csv.exists():
        raise UserError(f"{log_csv} is missing: the run logged nothing")
    log = pd.read_csv(log_csv, dtype={"stage": str})
    panels = [
        (title, [name for name in columns if name in log and log[name].notna().any()], smooth)
        for title, columns, smooth in (
            ("loss", ("loss",), True),
            ("reward", ("reward",), True),
            ("KL to reference", ("kl",), True),
            ("held-out users", HELD_OUT, False),
        )
    ]
    panels = [panel for panel in panels if panel[1]]
    if not panels:
        return False
    position, spans = _time_axis(log)

    figure = Figure(figsize=(9.5, 0.9 + 1.9 * len(panels)), layout="constrained")
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axis, (title, columns, smooth) in zip(axes, panels, strict=True):
        for number, (_, start, end, _) in enumerate(spans):
            axis.axvspan(start, end, color=STAGE_COLOURS[number % len(STAGE_COLOURS)], linewidth=0, zorder=0)
        for number, column in enumerate(columns):
            _plot(axis, log, position, column, f"C{number}", smooth)
        axis.set_ylabel(title)
        axis.grid(axis="y", alpha=0.35)
        axis.spines[["top", "right"]].set_visible(False)
        if len(columns) > 1:
            axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=9)
        if title == "KL to reference" and _spans_decades(log["kl"]):
            axis.set_yscale("log")
    for stage, start, end, _ in spans:
        axes[0].annotate(
            stage_title(stage),
            ((start + end) / 2, 1.02),
            xycoords=("data", "axes fraction"),
            ha="center",
            va="bottom",
            fontsize=10,
        )
    ticks = [
        (start + share * (end - start), round(share * last))
        for _, start, end, last in spans
        for share in (0.5, 1.0)
    ]
    axes[-1].set_xticks([0.0, *(place for place, _ in ticks)], ["0", *(f"{step:,}" for _, step in ticks)])
    axes[-1].set_xlabel("optimiser steps of each phase")
    figure.align_ylabels(axes)
    axes[-1].set_xlim(0, spans[-1][2])
    with atomic_path(out) as temporary:
        figure.savefig(temporary, dpi=150, format="png")
    return True
