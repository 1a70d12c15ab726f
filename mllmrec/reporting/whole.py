"""A whole report, from folders of runs to its files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from mllmrec.reporting.experiment import Question, build_experiments, names_of
from mllmrec.reporting.files import slug, write_report
from mllmrec.reporting.page import Section, make_section
from mllmrec.reporting.pictures import draw_pictures


@dataclass(frozen=True)
class Report:
    """A written report."""

    title: str
    sections: list[Section]
    page: Path  # the HTML page


def make_report(folders: Sequence[str], out: Path, question: Question, name: str | None = None) -> Report:
    """Read the runs and write the report.

    Args:
        folders: each holds runs at any depth, and becomes one or more sections.
        out: the folder to write.
        question: what is asked about the runs.
        name: the title; None: names the folders.

    Raises:
        UserError: a folder holds no finished run, or its runs cannot be compared.
    """
    names = names_of(folders)
    experiments = [
        experiment
        for folder, shown in zip(folders, names, strict=True)
        for experiment in build_experiments(folder, shown, question)
    ]
    sections = []
    for number, experiment in enumerate(experiments, 1):
        place = out if len(experiments) == 1 else out / f"{number}-{slug(experiment.name)}"
        sections.append(make_section(experiment, draw_pictures(experiment, place)))
    title = name or f"Report on {', '.join(names)}"
    return Report(title, sections, write_report(out, title, f"{datetime.now():%Y-%m-%d %H:%M}", sections))
