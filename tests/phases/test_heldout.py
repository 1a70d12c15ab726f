from __future__ import annotations

import csv
import logging

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger

from mllmrec.phases.base import OptimizerSettings, PhaseModule
from mllmrec.phases.heldout import HeldOutMeasure, HeldOutRanking, held_out_ranking
from mllmrec.rewards.hit_format import HitFormat
from mllmrec.rewards.release import Release


class Still(PhaseModule):
    """Updates once a batch; the batch is the reward that is logged."""

    name = "sft"

    def __init__(self):
        super().__init__(torch.nn.Linear(1, 1), OptimizerSettings(0.1), 10)

    def training_step(self, batch, batch_idx):
        self.log_step({"reward": batch[0]})
        self.update([self.model(torch.ones(1)).sum()])


class Paid(Still):
    name = "grpo"

    def __init__(self):
        super().__init__()
        self.bounds = HitFormat().bounds  # from -1 to 1


def by_step(stage, values):
    """A measure that gives a value for each optimiser step."""
    return HeldOutMeasure(lambda: {"HR@1": values[stage.global_step]}, lambda means: means["HR@1"])


def rows_of(logger, column):
    with open(f"{logger.log_dir}/metrics.csv", encoding="utf-8") as file:
        return {int(row["step"]): float(row[column]) for row in csv.DictReader(file) if row.get(column)}


@pytest.mark.parametrize(
    ("steps", "every", "measured"), [(5, 2, [0, 2, 4, 5]), (4, 2, [0, 2, 4]), (3, 10, [0, 3])]
)
def test_measures_at_the_beginning_in_between_and_at_the_end(fit, tmp_path, steps, every, measured):
    stage = Still()
    callback = HeldOutRanking(by_step(stage, [step / 10 for step in range(6)]), every)
    logger = CSVLogger(tmp_path)
    fit(stage, [[0.0]] * steps, callbacks=[callback], logger=logger)
    found = rows_of(logger, "val/HR@1")
    assert found == {step: step / 10 for step in measured}


@pytest.mark.parametrize(("keep", "expected"), [("best", 0.2), ("last", 0.4)])
def test_a_paid_stage_ends_with_the_weights_of_its_best_ranking(fit, keep, expected):
    stage = Paid()
    torch.nn.init.zeros_(stage.model.weight)
    # The gradient is 1, so AdamW at rate 0.1 (linear over 10 updates) moves the weight by 0.1, 0.09, 0.08, 0.07:
    # the best ranking comes after two steps, at -0.19, and the last weight is -0.34.
    values = [0.1, 0.2, 0.5, 0.4, 0.3]
    callback = held_out_ranking(by_step(stage, values), stage, every=1, keep=keep, patience=None)
    fit(stage, [[0.0]] * 4, callbacks=[callback])
    assert float(stage.model.weight) == pytest.approx({0.2: -0.19, 0.4: -0.34}[expected], abs=1e-3)
    assert callback.best_step == 2


def test_sft_is_chosen_by_its_held_out_users_like_any_other_stage(fit):
    stage = Still()
    torch.nn.init.zeros_(stage.model.weight)
    callback = held_out_ranking(
        by_step(stage, [0.1, 0.2, 0.5, 0.4, 0.3]), stage, every=1, keep="best", patience=None
    )
    fit(stage, [[0.0]] * 4, callbacks=[callback])
    assert float(stage.model.weight) == pytest.approx(-0.19, abs=1e-3)


@pytest.mark.parametrize(("keep", "other"), [("best", -0.34), ("last", -0.19)])
def test_the_weights_that_are_not_kept_are_handed_over_too(fit, keep, other):
    stage = Paid()
    torch.nn.init.zeros_(stage.model.weight)
    values = [0.1, 0.2, 0.5, 0.4, 0.3]
    callback = held_out_ranking(by_step(stage, values), stage, every=1, keep=keep, patience=None)
    fit(stage, [[0.0]] * 4, callbacks=[callback])
    found = callback.selection
    assert (found.kept, found.best_step, found.last_step) == (keep, 2, 4)
    assert set(found.other) == {"weight", "bias"}
    assert float(found.other["weight"]) == pytest.approx(other, abs=1e-3)


@pytest.mark.parametrize("keep", ["best", "last"])
def test_nothing_is_handed_over_where_the_best_weights_are_the_last(fit, keep):
    stage = Paid()
    callback = held_out_ranking(by_step(stage, [0.1, 0.2, 0.3]), stage, every=1, keep=keep, patience=None)
    fit(stage, [[0.0]] * 2, callbacks=[callback])
    assert (callback.selection.best_step, callback.selection.last_step) == (2, 2)
    assert callback.selection.other == {}


def test_of_equal_rankings_the_earliest_is_the_best(fit):
    # If training gains nothing on the held-out users, it must not look as if its weights were chosen for a gain.
    stage = Paid()
    callback = held_out_ranking(
        by_step(stage, [0.3, 0.5, 0.5, 0.5]), stage, every=1, keep="best", patience=None
    )
    fit(stage, [[0.0]] * 3, callbacks=[callback])
    assert callback.selection.best_step == 1


def test_a_stage_ends_when_the_ranking_gets_no_better(fit):
    stage = Paid()
    values = [0.1, 0.3, 0.2, 0.2, 0.9, 0.9]
    callback = held_out_ranking(by_step(stage, values), stage, every=1, keep="last", patience=2)
    fit(stage, [[0.0]] * 5, callbacks=[callback])
    # The best is at step 1; steps 2 and 3 are no better.
    assert stage.global_step == 3


def test_inflation_is_what_the_reward_rises_beyond_the_ranking(fit, tmp_path, caplog):
    stage = Paid()
    logger = CSVLogger(tmp_path)
    # Rewards -1, 0, 0.5, 1, 1 are 0, 0.5, 0.75, 1, 1 on the scale from 0 to 1. The ranking after each step is
    # 0.2, 0.3, 0.25, 0.25, 0.35. Since the first: reward +0, .5, .75, 1, 1; ranking +0, .1, .05, .05, .15.
    values = [0.1, 0.2, 0.3, 0.25, 0.25, 0.35]
    callback = held_out_ranking(by_step(stage, values), stage, every=1, keep="last", patience=None)
    with caplog.at_level(logging.WARNING):
        fit(stage, [[-1.0], [0.0], [0.5], [1.0], [1.0]], callbacks=[callback], logger=logger)
    assert rows_of(logger, "reward_normalised") == {1: 0.0, 2: 0.5, 3: 0.75, 4: 1.0, 5: 1.0}
    assert rows_of(logger, "inflation") == pytest.approx({1: 0.0, 2: 0.4, 3: 0.7, 4: 0.95, 5: 0.85})
    warned = [record.message for record in caplog.records if "inflation" in record.message]
    # At step 4 inflation has grown three times in a row and the ranking is below its best; at step 5 inflation falls.
    assert len(warned) == 1
    assert "by 0.950" in warned[0]


def test_no_inflation_without_a_reward(fit, tmp_path):
    stage = Still()
    logger = CSVLogger(tmp_path)
    fit(stage, [[1.0]] * 3, callbacks=[HeldOutRanking(by_step(stage, [0.1] * 4), 1)], logger=logger)
    assert rows_of(logger, "inflation") == {}


def test_the_bounds_of_rewards_are_their_extreme_totals():
    assert HitFormat().bounds == (-1, 1)
    # invalid 0.5, valid 0.25, hit 0.25 + 2
    assert HitFormat(hit_weight=2.0, format_weight=0.25, invalid=0.5).bounds == (0.25, 2.25)
    assert Release().bounds == (-1, 1)


def test_the_rankings_before_a_warning_of_inflation_can_be_chosen(fit, caplog):
    # Inflation grows between the first two rankings after a step, while the ranking falls: one is enough here.
    for parted, warnings in ((1, 1), (2, 0)):
        caplog.clear()
        stage = Paid()
        callback = held_out_ranking(
            by_step(stage, [0.5, 0.4, 0.3]), stage, every=1, keep="last", patience=None, parted=parted
        )
        with caplog.at_level(logging.WARNING, logger="mllmrec"):
            fit(stage, [[-1.0], [0.0]], callbacks=[callback])
        found = [message for message in caplog.messages if "reward inflation" in message]
        assert len(found) == warnings
        assert all("lower grpo.learning_rate, or end the phase with heldout.patience" in one for one in found)
