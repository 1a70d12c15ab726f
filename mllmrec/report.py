"""``python -m mllmrec.report runs=DIR[,DIR...]``: tables, tests and pictures over many finished runs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from mllmrec import api
from mllmrec.config.listed import listed
from mllmrec.stopping import stoppable

if TYPE_CHECKING:
    from omegaconf import DictConfig


class _Callable(ModuleType):
    """``from mllmrec import report`` gives this module; calling it is `mllmrec.api.report`."""

    def __call__(
        self,
        folders: str | Path | Sequence[str | Path],
        out: str | Path,
        *,
        name: str | None = None,
        **asked: Any,
    ) -> Path:
        """Write a report over runs and return its page; see `mllmrec.api.report`."""
        return api.report(folders, out, name=name, **asked)


sys.modules[__name__].__class__ = _Callable


def report(cfg: DictConfig) -> None:
    """Read the runs, write the report, print its tables and its path."""
    from dataclasses import fields

    from hydra.core.hydra_config import HydraConfig
    from omegaconf import ListConfig

    from mllmrec.reporting.experiment import Question
    from mllmrec.reporting.tables import on_screen
    from mllmrec.reporting.wandb_report import send
    from mllmrec.reporting.whole import make_report
    from mllmrec.screen.console import make_console, relative

    folders = [str(folder) for folder in (cfg.runs if isinstance(cfg.runs, ListConfig) else [cfg.runs])]
    question = Question(**{field.name: cfg[field.name] for field in fields(Question)})
    out = Path(HydraConfig.get().runtime.output_dir)
    made = make_report(folders, out, question, cfg.name)
    console = make_console()
    for section in made.sections:
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
            send(made.title, made.sections, out, cfg.wandb_project, cfg.wandb_entity),
            highlight=False,
            markup=False,
        )
    console.print(f"the page: {relative(made.page)}", highlight=False, markup=False, soft_wrap=True)


def main() -> None:
    """Entry point."""
    sys.argv[1:] = listed(sys.argv[1:], "runs")
    with stoppable("mllmrec.report"):
        from mllmrec.cli import run_app

        run_app(report, "report")


if __name__ == "__main__":
    main()
