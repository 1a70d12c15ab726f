"""The table of what rankings cost, for runs that were ranked again in several ways."""

from __future__ import annotations

from mllmrec.reporting.experiment import Experiment
from mllmrec.reporting.tables import Cell, Table, label_of


def ranking_costs(experiment: Experiment) -> Table | None:
    """What ranking a user cost in each row; None if no run was ranked again."""
    if not any("rankings" in entry.cost for entry in experiment.scores):
        return None
    rows = []
    for entry in experiment.scores:
        count = entry.cost.get("rankings")
        seconds, tokens = (entry.cost.get(key, 0.0) / (count or 1) for key in ("seconds", "generated_tokens"))
        values = [f"{1000 * seconds:.1f}", f"{tokens:.1f}"] if count else ["–", "–"]
        rows.append([Cell(label_of(entry)), *map(Cell, values)])
    caption = (
        "Cost of ranking one user's candidates, averaged over users and seeds. Tokens are those that the policy wrote; scores of "
        "given answers write none. Compare times only between runs on the same machine."
    )
    return Table("Cost of a ranking", [experiment.axis, "milliseconds", "generated tokens"], rows, caption)
