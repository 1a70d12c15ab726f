from __future__ import annotations

import csv
import json
import logging

import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger

from mllmrec.engine.shared_prefix import SharedPrefix
from mllmrec.errors import UserError
from mllmrec.phases.base import Learner, OptimizerSettings, PhaseModule
from mllmrec.phases.dpo import Dpo
from mllmrec.phases.sft import Sft
from mllmrec.phases.skipped_updates import SkippedUpdates
from mllmrec.phases.warmup import Warmup
from mllmrec.rl.regularizers import Regularizer

NAN = float("nan")


class Line(PhaseModule):
    """A weight of 1 with gradient 1; a batch holds the factor of its loss."""

    name = section = "sft"

    def __init__(self, updates=8):
        super().__init__(torch.nn.Linear(1, 1, bias=False), OptimizerSettings(0.1, weight_decay=0.5), updates)
        torch.nn.init.constant_(self.model.weight, 1.0)

    def training_step(self, batch, batch_idx):
        self.log_step(self.update([self.model(torch.ones(1)).sum() * batch[0]]))


class Resumed(Line):
    """Goes on after two updates."""

    def on_train_start(self):
        self.update.count = 2


class Broken(Regularizer):
    """Not a number from a step on."""

    name = "broken"

    def __init__(self, since=1):
        self.since = since

    def weight(self, step):
        return NAN if step >= self.since else 1.0

    def __call__(self, inputs):
        return inputs.logprobs * 1e-3


def rows_of(logger):
    with open(f"{logger.log_dir}/metrics.csv", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def warned(caplog):
    return [record.message for record in caplog.records if record.name.startswith("mllmrec")]


def test_a_bad_batch_is_skipped_and_the_others_are_learnt_as_without_it(fit, tmp_path, caplog):
    logger, stage = CSVLogger(tmp_path), Line()
    with caplog.at_level(logging.WARNING):
        fit(
            stage,
            [[1.0], [NAN]],
            callbacks=[SkippedUpdates(tmp_path / "skipped", 2)],
            logger=logger,
            log_every_n_steps=1,
        )
    alone = Line()
    fit(alone, [[1.0]])
    assert stage.model.weight.item() == alone.model.weight.item() < 1.0
    (state,) = stage.optimizers().state.values()
    assert float(state["step"]) == 1  # nor do the moments know of it
    assert stage.global_step == 2
    assert [row.get("skipped_steps") for row in rows_of(logger)] == ["", "1.0"]
    first, last = warned(caplog)
    assert first.startswith(
        "sft: update 1 was skipped, because it is not finite: loss nan, gradient norm nan"
    )
    assert "lower sft.learning_rate (now 0.1)" in first
    assert last.startswith("sft: 1 of 2 updates were skipped")


def test_so_many_in_a_row_end_the_phase_and_a_good_one_between_counts_anew(fit, tmp_path):
    callback = SkippedUpdates(tmp_path, 2)
    fit(Line(), [[1.0], [NAN], [1.0], [float("inf")], [1.0]], callbacks=[callback])
    assert callback.count == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sft-1.json", "sft-3.json"]
    stage = Line()
    with pytest.raises(UserError) as caught:
        fit(stage, [[1.0], [NAN], [NAN], [1.0]], callbacks=[SkippedUpdates(tmp_path, 2)])
    assert str(caught.value).startswith(
        "phase sft diverged: 2 updates in a row had a loss or a gradient that is not finite (warnings.skipped=2), the last one "
        "at step 2: loss nan, gradient norm nan; all were skipped"
    )
    assert "lower sft.learning_rate (now 0.1)" in str(caught.value)
    assert stage.model.weight.isfinite().all()


def test_a_phase_that_is_broken_from_the_start_is_not_told_to_learn_slower(fit, tmp_path):
    with pytest.raises(UserError, match="no update of the phase was finite") as caught:
        fit(Line(), [[NAN]] * 3, callbacks=[SkippedUpdates(tmp_path, 3)])
    assert "learning_rate" not in str(caught.value)


def test_a_healthy_phase_logs_and_writes_nothing(fit, tmp_path, caplog):
    logger = CSVLogger(tmp_path)
    with caplog.at_level(logging.WARNING):
        fit(
            Line(),
            [[1.0]] * 3,
            callbacks=[SkippedUpdates(tmp_path / "skipped", 1)],
            logger=logger,
            log_every_n_steps=1,
        )
    assert warned(caplog) == []
    assert all("skipped_steps" not in row for row in rows_of(logger))
    assert not (tmp_path / "skipped").exists()


def test_counting_goes_on_where_a_phase_is_resumed(fit, tmp_path):
    before, after = SkippedUpdates(tmp_path, 2), SkippedUpdates(tmp_path, 2)
    fit(Line(), [[1.0], [NAN]], callbacks=[before])
    after.load_state_dict(before.state_dict())
    with pytest.raises(UserError, match="2 updates in a row"):
        fit(Resumed(), [[NAN]], callbacks=[after])


def test_rollouts_of_a_skipped_update_are_kept_with_their_tokens(make_grpo, batch, fit, tmp_path):
    seen = []
    stage = make_grpo(regularizers=[Broken(since=1)], on_rollouts=seen.append, steps=4)
    with pytest.raises(UserError, match="2 updates in a row"):
        fit(stage, [batch] * 4, callbacks=[SkippedUpdates(tmp_path, 2)])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["grpo-1.json", "grpo-2.json"]
    kept = json.loads((tmp_path / "grpo-1.json").read_text(encoding="utf-8"))
    assert (kept["phase"], kept["step"], kept["update"], kept["loss"]) == ("grpo", 1, 1, "nan")
    rollouts = seen[1]
    assert [row["text"] for row in kept["completions"]] == list(rollouts.texts)
    assert [row["reward"] for row in kept["completions"]] == rollouts.rewards.tolist()
    for place, row in enumerate(kept["completions"]):
        mask = rollouts.completions.mask[place]
        assert row["tokens"] == rollouts.completions.ids[place][mask].tolist()
        assert len(row["learnt"]) == len(row["tokens"])
        assert row["sample"] == batch[int(rollouts.example_of[place])].sample_id
    encoded = stage.collector.speaker.policy.encode_prompts([example.prompt for example in batch])
    assert kept["prompts"] == encoded
    assert stage._learns_from is None


@pytest.mark.parametrize("kind", ["sft", "dpo"])
def test_examples_are_kept_with_the_tokens_of_prompts_and_answers(tiny, batch, kind):
    tiny.policy.begin_phase(kind, keep_reference=True)
    learner = Learner(tiny.policy, SharedPrefix(), 4)
    if kind == "sft":
        stage = Sft(learner, tiny.answers, OptimizerSettings(0.1), 1)
    else:
        stage = Dpo(learner, tiny.answers, OptimizerSettings(0.1), 1, negatives=2, beta=0.1)
    kept = stage.in_tokens(batch, 0)
    assert sorted(kept["samples"]) == sorted(example.sample_id for example in batch)
    for sample, prompt, answer in zip(kept["samples"], kept["prompts"], kept["answers"], strict=True):
        example = next(one for one in batch if one.sample_id == sample)
        assert [prompt] == tiny.policy.encode_prompts([example.prompt])
        (true,) = tiny.answers.among(example.candidates.tolist(), [example.target])
        assert (answer if kind == "sft" else answer[0]) == true
        assert kind == "sft" or len(answer) == 3


def test_sequences_of_items_are_kept_as_their_labels(tiny):
    stage = Warmup(tiny.policy.model, np.array([70, 71, 72]), OptimizerSettings(0.1), 1)
    (kept,) = stage.in_tokens([np.array([2, 0])], 0)["sequences"]
    assert kept.tolist() == [72, 70]
