"""``python -m mllmrec.report runs=DIR[,DIR...]``: tables, tests and pictures over many finished runs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mllmrec.stopping import stoppable

if TYPE_CHECKING:
    from omegaconf import DictConfig


def report(cfg: DictConfig) -> None:
    """Read the runs, write the report, print its tables and its path."""
    from dataclasses import fields
    from datetime import datetime

    from hydra.core.hydra_config import HydraConfig
    from omegaconf import ListConfig

    from mllmrec.reporting.experiment import Question, build_experiments, names_of
    from mllmrec.reporting.files import slug, write_report
    from mllmrec.reporting.page import make_section
    from mllmrec.reporting.pictures import draw_pictures
    from mllmrec.reporting.tables import on_screen
    from mllmrec.reporting.wandb_report import send
    from mllmrec.screen.console import make_console, relative

    folders = [str(folder) for folder in (cfg.runs if isinstance(cfg.runs, ListConfig) else [cfg.runs])]
    names = names_of(folders)
    question = Question(**{field.name: cfg[field.name] for field in fields(Question)})
    experiments = [
        experiment
        for folder, name in zip(folders, names, strict=True)
        for experiment in build_experiments(folder, name, question)
    ]
    out = Path(HydraConfig.get().runtime.output_dir)
    sections = []
    for number, experiment in enumerate(experiments, 1):
        place = out if len(experiments) == 1 else out / f"{number}-{slug(experiment.name)}"
        sections.append(make_section(experiment, draw_pictures(experiment, place)))
    title = cfg.name or f"Report on {', '.join(names)}"
    path = write_report(out, title, f"{datetime.now():%Y-%m-%d %H:%M}", sections)
    console = make_console()
    for section in sections:
        console.print(on_screen(section.results, [section.experiment.metric]))
        if section.comparisons is not None:
            console.print(on_screen(section.comparisons))
        if section.slices is not None:
            console.print(on_screen(section.slices, ()))
        if section.costs is not None:
            console.print(on_screen(section.costs))
        if section.training is not None:
            console.print(on_screen(section.training))
        if section.ranking_costs is not None:
            console.print(on_screen(section.ranking_costs))
        for note in section.notes:
            console.print(note, style="yellow", markup=False, highlight=False)
    if cfg.wandb:
        console.print(
            send(title, sections, out, cfg.wandb_project, cfg.wandb_entity), highlight=False, markup=False
        )
    console.print(f"the page: {relative(path)}", highlight=False, markup=False, soft_wrap=True)


def listed(arguments: Sequence[str]) -> list[str]:
    """Turn ``runs=A,B`` into a list; Hydra itself would read it as a sweep over A and B.

    A path that exists as typed is one folder even if it has commas, since multirun names folders after overrides.
    """
    result = []
    for argument in arguments:
        key, _, value = argument.partition("=")
        if key == "runs" and value and value[0] not in "['\"":
            folders = [value] if Path(value).exists() else [part for part in value.split(",") if part]
            argument = "runs=[" + ",".join("'" + part.replace("'", "\\'") + "'" for part in folders) + "]"
        result.append(argument)
    return result


def main() -> None:
    """Entry point."""
    sys.argv[1:] = listed(sys.argv[1:])
    with stoppable("mllmrec.report"):
        from mllmrec.cli import run_app

        run_app(report, "report")


if __name__ == "__main__":
    main()
