"""`report.html`: one file with its pictures, its styles and its scripts inside.

It needs no network, and its policy (Content-Security-Policy) lets a browser run nothing but the scripts in ``web/``, which
it names by their hashes: text from a run can never become a script. Without scripts the tables are as complete, and each
chart is the picture that is printed too. Charts are drawn by uPlot (51 kB in each page); plotly would put 4.8 MB and
bokeh 1.3 MB there, and both write styles that such a policy forbids.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from mllmrec.reporting.experiment import Experiment
from mllmrec.reporting.job_links import job_lines
from mllmrec.reporting.notes import notes
from mllmrec.reporting.pictures import Picture
from mllmrec.reporting.ranking_table import ranking_costs
from mllmrec.reporting.tables import Table, comparisons, costs, results, slices
from mllmrec.reporting.training_table import training

TEMPLATE = Path(__file__).with_name("page.html.j2")
WEB = Path(__file__).with_name("web")
STYLES = ("uPlot.min.css", "page.css")
SCRIPTS = ("uPlot.iife.min.js", "sortable.min.js", "page.js")


@dataclass(frozen=True)
class Section:
    """The content under one experiment's heading."""

    experiment: Experiment
    results: Table
    comparisons: Table | None
    slices: Table | None
    costs: Table | None
    training: Table | None
    ranking_costs: Table | None
    notes: list[str]  # jobs that are left out or were interrupted
    pictures: list[Picture]

    @property
    def tables(self) -> list[Table]:
        """The existing tables, in the order shown."""
        costs = (self.costs, self.training, self.ranking_costs)
        every = (self.results, self.comparisons, self.slices, *costs)
        return [table for table in every if table is not None]


def make_section(experiment: Experiment, pictures: Sequence[Picture]) -> Section:
    """Put an experiment's tables and notes together with its pictures."""
    return Section(
        experiment,
        results(experiment),
        comparisons(experiment),
        slices(experiment),
        costs(experiment),
        training(experiment),
        ranking_costs(experiment),
        notes(experiment),
        list(pictures),
    )


def page(title: str, made: str, sections: Sequence[Section], folder: Path) -> str:
    """The whole page.

    Args:
        title: shown at the top.
        made: when the report was made, as text.
        sections: one per experiment.
        folder: where the page will lie; links to runs are relative to it.
    """
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    styles, scripts = (
        [(WEB / name).read_text(encoding="utf-8") for name in names] for names in (STYLES, SCRIPTS)
    )
    return template.render(
        title=title,
        made=made,
        sections=sections,
        embedded=_embedded,
        jobs=partial(job_lines, report=folder),
        policy=_policy(styles, scripts),
        styles=map(Markup, styles),
        scripts=map(Markup, scripts),
    )


def _policy(styles: Sequence[str], scripts: Sequence[str]) -> str:
    """What a browser may load and run: these texts and embedded pictures, and nothing else."""
    allowed = {"style-src": _hashes(styles), "script-src": _hashes(scripts)}
    parts = ["default-src 'none'", "img-src data:", "base-uri 'none'", "form-action 'none'"]
    return "; ".join([*parts, *(f"{kind} {hashes}" for kind, hashes in allowed.items())])


def _hashes(texts: Sequence[str]) -> str:
    digests = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in texts)
    return " ".join(f"'sha256-{digest}'" for digest in digests)


def _embedded(path: Path) -> Markup:
    encoded = base64.b64encode(path.read_bytes()).decode("ascii")
    return Markup(f"data:image/png;base64,{encoded}")
