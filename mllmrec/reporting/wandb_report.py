"""The report as a Weights & Biases report: tables as Markdown, pictures from a run that logs them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mllmrec.errors import UserError
from mllmrec.reporting.files import slug
from mllmrec.reporting.page import Section
from mllmrec.reporting.pictures import Picture
from mllmrec.reporting.tables import markdown

LONGEST_TITLE = 128  # characters that wandb accepts


def media_key(number: int, section: Section, picture: Picture) -> str:
    """The key under which a picture of the ``number``-th section is logged."""
    return f"{number}-{slug(section.experiment.name)}/{picture.name}"


def build(title: str, sections: Sequence[Section], project: str, entity: str, run_id: str) -> Any:
    """The report as wandb's own object; contacts no server.

    Args:
        title: shown at the top.
        sections: one per experiment.
        project: the project of the report and of the run with the pictures.
        entity: user or team; empty if not yet known.
        run_id: the id of the run with the pictures.

    Returns:
        A ``wandb_workspaces.reports.v2.Report``.

    Raises:
        UserError: wandb-workspaces is not installed.
    """
    try:
        from wandb_workspaces import expr
        from wandb_workspaces.reports import v2
    except ModuleNotFoundError as error:
        raise UserError("wandb=true needs wandb-workspaces: pip install 'mllmrec[report]'") from error
    blocks: list[Any] = [v2.TableOfContents()]
    for number, section in enumerate(sections, 1):
        blocks.append(v2.H1(text=section.experiment.name))
        blocks += [v2.P(text=note) for note in section.notes]
        for table in section.tables:
            blocks += [v2.H2(text=table.title), v2.MarkdownBlock(text=markdown(table))]
        for picture in section.pictures:
            panel = v2.MediaBrowser(
                title=picture.title, num_columns=1, media_keys=[media_key(number, section, picture)]
            )
            runset = v2.Runset(entity=entity, project=project, filters=[expr.Metric("ID") == run_id])
            blocks += [
                v2.H2(text=picture.title),
                v2.P(text=picture.caption),
                v2.PanelGrid(runsets=[runset], panels=[panel], hide_run_sets=True),
            ]
    return v2.Report(
        project=project, entity=entity, title=title[:LONGEST_TITLE], blocks=blocks, width="fluid"
    )


def send(title: str, sections: Sequence[Section], folder: Path, project: str, entity: str | None) -> str:
    """Log the pictures to a run and save the report, if the environment has WANDB_API_KEY and is not offline.

    Returns:
        One line for the screen that says where the report is, or why it was not sent.
    """
    if not os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_MODE", "online") != "online":
        report = build(title, sections, project, entity="", run_id="unsent")
        return f"wandb report of {len(report.blocks)} blocks not sent: set WANDB_API_KEY, and WANDB_MODE=online if it is set"
    import wandb

    with wandb.init(project=project, entity=entity, name=title, job_type="report", dir=str(folder)) as run:
        for number, section in enumerate(sections, 1):
            for picture in section.pictures:
                run.log({media_key(number, section, picture): wandb.Image(str(picture.path))}, step=0)
        report = build(title, sections, run.project, run.entity, run.id)
    report.save()
    return f"wandb report: {report.url}"
