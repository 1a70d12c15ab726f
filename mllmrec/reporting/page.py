"""`report.html`: one file with its pictures inside, readable without a network and without scripts."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from mllmrec.reporting.experiment import Experiment
from mllmrec.reporting.notes import notes
from mllmrec.reporting.pictures import Picture
from mllmrec.reporting.ranking_table import ranking_costs
from mllmrec.reporting.tables import Table, comparisons, costs, results, slices
from mllmrec.reporting.training_table import training

TEMPLATE = Path(__file__).with_name("page.html.j2")


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


def page(title: str, made: str, sections: Sequence[Section]) -> str:
    """The whole page.

    Args:
        title: shown at the top.
        made: when the report was made, as text.
        sections: one per experiment.
    """
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(title=title, made=made, sections=sections, embedded=_embedded)


def _embedded(path: Path) -> Markup:
    encoded = base64.b64encode(path.read_bytes()).decode("ascii")
    return Markup(f"data:image/png;base64,{encoded}")
