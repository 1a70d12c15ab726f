from __future__ import annotations

import collections
import logging

import lightning
import numpy as np
import pytest
import torch
from torch.testing import assert_close
from torch.utils.data import DataLoader

from mllmrec.errors import UserError
from mllmrec.phases.base import OptimizerSettings, PhaseModule
from mllmrec.run.csv_log import CsvLog
from mllmrec.run.log_rows import read_log
from mllmrec.step.sampler import count_steps, shuffled_batches


def batches(size, batch_size, epochs=1.0, max_steps=None, seed=0, purpose="sft"):
    return shuffled_batches(size, batch_size, count_steps(size, batch_size, epochs, max_steps), seed, purpose)


def test_every_sample_once_per_epoch():
    # 10 samples in steps of 4: 4, 4, 2, and again.
    steps = batches(10, 4, epochs=2)
    assert [len(step) for step in steps] == [4, 4, 2, 4, 4, 2]
    for epoch in (steps[:3], steps[3:]):
        assert sorted(np.concatenate(epoch)) == list(range(10))
    assert np.concatenate(steps[:3]).tolist() != np.concatenate(steps[3:]).tolist()


@pytest.mark.parametrize(
    ("epochs", "max_steps", "steps"),
    [
        (0.5, None, 5),
        (1.2, None, 12),
        (0.01, None, 1),
        (3, 4, 4),
        (1, 100, 10),
        (0.1, None, 1),
        (0.7, None, 7),
    ],
)
def test_fractions_and_limits(epochs, max_steps, steps):
    # 10 steps an epoch.
    assert len(batches(40, 4, epochs=epochs, max_steps=max_steps)) == steps


def test_rounding_adds_no_step():
    # 0.07 · 100 is 7.000000000000001 in binary fractions.
    assert len(batches(100, 1, epochs=0.07)) == 7


def test_batches_depend_on_seed_and_purpose_alone():
    first = np.concatenate(batches(50, 8)).tolist()
    np.random.seed(0)  # noqa: NPY002
    assert np.concatenate(batches(50, 8)).tolist() == first
    assert np.concatenate(batches(50, 8, seed=1)).tolist() != first
    assert np.concatenate(batches(50, 8, purpose="grpo")).tolist() != first
    # A longer run starts with the batches of a shorter one.
    assert np.concatenate(batches(50, 8, epochs=3)[:7]).tolist() == first


class Line(PhaseModule):
    """Fits ``w x`` to ``2 x``; a batch is a list of numbers, each its own share of the loss."""

    name = "sft"

    def __init__(self, settings, updates, factor=1.0):
        super().__init__(torch.nn.Linear(1, 1, bias=False), settings, updates)
        torch.nn.init.constant_(self.model.weight, 1.0)
        self.factor = factor
        self.seen: list[dict[str, float]] = []

    def training_step(self, batch, batch_idx):
        shares = ((self.model(torch.tensor([x])) - 2 * x).square().sum() / len(batch) for x in batch)
        self.seen.append(self.update(share * self.factor for share in shares))
        self.log_step(self.seen[-1])


def test_shares_add_up_to_one_update(fit):
    stage = Line(OptimizerSettings(0.1, max_grad_norm=100.0), updates=1)
    fit(stage, [[1.0, 2.0]])
    # (1 - 2)² and (2 - 4)²: mean 2.5; gradient mean of 2 (w - 2) x² = -2 and -8: -5.
    assert_close(stage.seen[0]["loss"], 2.5)
    assert_close(stage.seen[0]["grad_norm"], 5.0)
    # The first step of Adam is the learning rate, against the gradient.
    assert_close(stage.model.weight.item(), 1.1)


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        ("linear", [0.0, 0.5, 1.0, 0.5]),
        ("cosine", [0.0, 0.5, 1.0, 0.5]),
        ("constant", [0.0, 0.5, 1.0, 1.0]),
    ],
)
def test_schedule_rises_and_falls_over_the_stage(fit, schedule, rates):
    # The rate rises for half of the four updates: 0, 1/2; then it falls: 1, 1/2.
    stage = Line(OptimizerSettings(0.01, schedule=schedule, warmup_ratio=0.5), updates=4)
    fit(stage, [[1.0]] * 4)
    assert_close([seen["learning_rate"] / 0.01 for seen in stage.seen], rates)


def test_gradients_are_scaled_down_to_the_norm(fit):
    plain = torch.nn.Linear(1, 1, bias=False)
    stage = Line(OptimizerSettings(0.1, max_grad_norm=0.5), updates=1)
    stage.on_before_optimizer_step = lambda optimizer: setattr(plain, "seen", stage.model.weight.grad.item())
    fit(stage, [[1.0, 2.0]])
    assert_close(stage.seen[0]["grad_norm"], 5.0)  # the norm before scaling
    assert_close(plain.seen, -0.5)


@pytest.mark.parametrize("factor", [float("nan"), float("inf")])
def test_divergence_is_a_message_and_leaves_the_weights(fit, factor):
    stage = Line(OptimizerSettings(0.1), updates=1, factor=factor)
    with pytest.raises(UserError, match=r"diverged at step 0.*lower sft\.learning_rate \(now 0\.1\)"):
        fit(stage, [[1.0]])
    assert stage.model.weight.item() == 1.0


def test_a_model_that_comes_in_evaluation_mode_is_trained_in_training_mode(fit):
    class Watched(Line):
        def training_step(self, batch, batch_idx):
            self.seen.append([module.training for module in self.model.modules()])

    policy = torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.Dropout(0.5)).eval()

    class Loaded(Watched):
        def __init__(self):
            PhaseModule.__init__(self, policy, OptimizerSettings(0.1), 1)
            self.seen = []

    stage = Loaded()
    fit(stage, [[1.0]])
    assert stage.seen == [[True, True, True]]


class Coarse(PhaseModule):
    """A weight of 1 in bfloat16, whose next number below 1 is 1 - 1/256."""

    name = "sft"

    def __init__(self, learning_rate):
        super().__init__(torch.nn.Linear(1, 1, bias=False), OptimizerSettings(learning_rate), 4)
        self.model.to(torch.bfloat16)
        torch.nn.init.constant_(self.model.weight, 1.0)

    def training_step(self, batch, batch_idx):
        self.update([self.model(torch.ones(1, dtype=torch.bfloat16)).sum()])


def test_a_step_that_is_lost_in_rounding_is_refused(fit):
    fit(Coarse(0.01), [[1.0]] * 2)
    with pytest.raises(UserError, match=r"changed no weight.*bfloat16.*raise sft\.learning_rate"):
        fit(Coarse(1e-4), [[1.0]] * 2)


def test_the_first_step_that_can_move_something_is_looked_at(fit, caplog):
    # The first update of a rising learning rate has rate 0, and the loss of the second has no gradient.
    stage = Line(OptimizerSettings(0.01, schedule="constant", warmup_ratio=0.25), updates=4)
    with caplog.at_level(logging.WARNING):
        fit(stage, [[1.0], [0.0], [1.0], [1.0]])
    assert [seen["learning_rate"] * seen["grad_norm"] > 0 for seen in stage.seen] == [
        False,
        False,
        True,
        True,
    ]
    assert caplog.messages == []
    still = Line(OptimizerSettings(0.01), updates=2)
    with caplog.at_level(logging.WARNING):
        fit(still, [[0.0], [0.0]])
    (message,) = caplog.messages
    assert "no update had both a gradient and a learning rate" in message


def test_adapters_without_a_part_in_the_loss_are_named(fit, caplog):
    class Adapted(Line):
        def __init__(self):
            super().__init__(OptimizerSettings(0.1), 1)
            self.model.lora_A = torch.nn.ParameterDict({"sft": torch.nn.Parameter(torch.zeros(1))})
            self.model.lora_B = torch.nn.ParameterDict({"sft": torch.nn.Parameter(torch.zeros(1))})

        def training_step(self, batch, batch_idx):
            self.update([self.model(torch.ones(1)).sum() + self.model.lora_A["sft"].sum()])

    with caplog.at_level(logging.WARNING):
        fit(Adapted(), [[1.0]])
    (message,) = caplog.messages
    assert message.startswith("sft: 1 adapter weights had no part in the loss of the first update")
    assert message.endswith(": model.lora_B.sft")


def test_nothing_to_train_is_refused(fit):
    stage = Line(OptimizerSettings(0.1), updates=1)
    stage.model.requires_grad_(False)
    with pytest.raises(UserError, match="nothing to train"):
        fit(stage, [[1.0]])


def test_updates_are_counted_as_steps(fit):
    class Twice(Line):
        def training_step(self, batch, batch_idx):
            for _ in range(2):
                super().training_step(batch, batch_idx)

    assert fit(Twice(OptimizerSettings(0.1), updates=6), [[1.0]] * 3).global_step == 6


def test_a_step_logs_its_own_numbers_and_none_of_an_earlier_step(tmp_path):
    class Now(Line):
        def training_step(self, batch, batch_idx):
            super().training_step(batch, batch_idx)
            if batch_idx == 1:
                self.log_step({"only now": 7.0})

    log = CsvLog(tmp_path / "log.csv", "sft", lambda: 0.0)
    trainer = lightning.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=log,
        log_every_n_steps=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Now(OptimizerSettings(0.1), updates=4), DataLoader([[1.0]] * 4, batch_size=None))
    rows = read_log(log.path)
    assert [row.get("only now") for row in rows] == [None, "7", None, None]
    assert [row["step"] for row in rows] == ["0", "1", "2", "3"]
    assert all({"loss", "epoch"} <= row.keys() for row in rows)


def test_all_samples_are_used_equally_over_many_epochs():
    counts = collections.Counter(np.concatenate(batches(7, 3, epochs=5)).tolist())
    assert set(counts.values()) == {5}
