"""The jobs behind an experiment as lines of the page, with links to what they left."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from mllmrec.reporting.experiment import Experiment
from mllmrec.run.folder import RunFolder


@dataclass(frozen=True)
class JobLine:
    """One job."""

    row: str  # its row's label; empty if it belongs to none
    seed: int | str
    state: str
    path: str  # as the report was given it
    address: str  # of its folder
    links: list[tuple[str, str]]  # name and address of each file that is there


def job_lines(experiment: Experiment, report: Path) -> list[JobLine]:
    """The runs of all rows, then older runs and jobs without results.

    Args:
        experiment: the scored experiment.
        report: the folder of the page; addresses are relative to it.
    """
    lines = [
        _line(row.label, run.seed, "finished", run.path, report)
        for row in experiment.rows
        for run in row.runs
    ]
    lines += [_line("", run.seed, "left out, older", run.path, report) for run in experiment.repeated]
    for job in experiment.unfinished:
        lines.append(_line("", "", "not finished" if job.error is None else "failed", job.path, report))
    return lines


def _line(row: str, seed: int | str, state: str, path: Path, report: Path) -> JobLine:
    folder = RunFolder(path)
    # Numbers among other negatives stand inside the folder of the run.
    above = RunFolder(path.parent)
    job = above if above.beside_path == path else folder
    files = {
        "log": job.run_log_path,
        "settings": job.resolved_config_path,
        "numbers": folder.metrics_path,
        "steps": job.log_path,
        "curves": job.curves_path,
        "prompts": job.prompts_path,
        "environment": job.environment_path,
        "error": job.failed_path,
    }
    links = [(name, _address(file, report)) for name, file in files.items() if file.is_file()]
    return JobLine(row, seed, state, str(path), f"{_address(path, report)}/", links)


def _address(path: Path, report: Path) -> str:
    """A relative URL. Every sign but letters, digits and slashes is quoted, so no name can become a scheme."""
    try:
        relative = Path(os.path.relpath(path, report)).as_posix()
    except ValueError:  # another drive
        return path.resolve().as_uri()
    return quote(os.fsencode(relative))
