"""The table of how the training of each row went."""

from __future__ import annotations

from mllmrec.reporting.diagnostics import COLUMNS
from mllmrec.reporting.experiment import Experiment
from mllmrec.reporting.tables import Cell, Table, label_of, stages_shown


def training(experiment: Experiment) -> Table | None:
    """One row per setting, one column per number; None if no phase had rollouts."""
    if not any(experiment.training):
        return None
    columns = [name for name in COLUMNS if any(name in numbers for numbers in experiment.training)]
    rows = []
    for entry, numbers in zip(experiment.scores, experiment.training, strict=True):
        cells = [Cell(COLUMNS[name][1].format(numbers[name]) if name in numbers else "–") for name in columns]
        rows.append([Cell(label_of(entry)), Cell(stages_shown(entry.stage)), *cells])
    caption = (
        "Means over the steps of the phase and over seeds. Equal groups: share of groups whose rewards do not differ. Clipped "
        "tokens: share of learnt tokens whose ratio a clip held. Entropy and KL to the reference: nats per learnt token; "
        "without a reference there is no KL, unless grpo.log_kl=true. Effective share: effective sample size of the ratios, as "
        "a share of the completions. Drawn per learnt: tokens generated for each token with an advantage."
    )
    return Table(
        "Training", [experiment.axis, "phase", *(COLUMNS[name][0] for name in columns)], rows, caption
    )
