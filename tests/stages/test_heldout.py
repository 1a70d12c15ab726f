from __future__ import annotations

import csv

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger

from mllmrec.stages.base import OptimizerSettings, Stage
from mllmrec.stages.heldout import HeldOutRanking


class Still(Stage):
    """Updates once a batch."""

    name = "sft"

    def __init__(self):
        super().__init__(torch.nn.Linear(1, 1), OptimizerSettings(0.1), 10)

    def training_step(self, batch, batch_idx):
        self.update([self.model(torch.ones(1)).sum()])


@pytest.mark.parametrize(
    ("steps", "every", "measured"), [(5, 2, [0, 2, 4, 5]), (4, 2, [0, 2, 4]), (3, 10, [0, 3])]
)
def test_measures_at_the_beginning_in_between_and_at_the_end(fit, tmp_path, steps, every, measured):
    stage = Still()
    callback = HeldOutRanking(lambda: {"HR@1": stage.global_step / 10}, every)
    logger = CSVLogger(tmp_path)
    fit(stage, [[0]] * steps, callbacks=[callback], logger=logger)
    with open(f"{logger.log_dir}/metrics.csv", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["val/HR@1"]]
    assert [int(row["step"]) for row in rows] == measured
    assert [float(row["val/HR@1"]) for row in rows] == [step / 10 for step in measured]
