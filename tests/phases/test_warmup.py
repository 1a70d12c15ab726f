from __future__ import annotations

import collections
import math

import numpy as np
import pytest
import torch

from mllmrec.data.base import Interactions
from mllmrec.data.splits import LeaveOneOut
from mllmrec.engine.packed import packs
from mllmrec.phases.base import OptimizerSettings
from mllmrec.phases.warmup import Warmup, training_sequences


def of_lengths(*lengths):
    """Interactions in which every item occurs once, so that an item tells its place."""
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    users = np.array([f"u{user}" for user in range(len(lengths))])
    return Interactions(users, offsets, np.arange(offsets[-1], dtype=np.int32))


@pytest.mark.parametrize("windows", ["last", "sliding"])
@pytest.mark.parametrize("length", [1, 2, 3, 100])
def test_no_held_out_item_is_seen_and_every_other_is_predicted_once(windows, length):
    interactions = of_lengths(9, 5, 4, 12)
    splits = LeaveOneOut(windows)(interactions)
    sequences = training_sequences(splits["train"], length)
    seen = {item for sequence in sequences for item in sequence.tolist()}
    held_out = {int(item) for name in ("validation", "test") for item in splits[name].targets}
    assert len(held_out) == 8
    assert not seen & held_out
    predicted = collections.Counter(item for sequence in sequences for item in sequence[1:].tolist())
    training = {item for user in range(4) for item in interactions.of_user(user)[1:-2].tolist()}
    assert predicted == dict.fromkeys(training, 1)
    for sequence in sequences:
        assert 2 <= len(sequence) <= length + 1
        assert (np.diff(sequence) == 1).all()  # in order, within one user


def test_chunks_overlap_by_one():
    # Training items 0 … 6 of nine; chunks from the end: 4 5 6, 2 3 4, 0 1 2.
    sequences = training_sequences(LeaveOneOut()(of_lengths(9))["train"], 2)
    assert [sequence.tolist() for sequence in sequences] == [[4, 5, 6], [2, 3, 4], [0, 1, 2]]


def test_users_without_a_training_target_are_left_out():
    # The last two of the first user's three items are held out, which leaves no target with an item before it.
    splits = LeaveOneOut()(of_lengths(3, 6))
    assert [sequence.tolist() for sequence in training_sequences(splits["train"], 20)] == [[3, 4, 5, 6]]


@pytest.fixture
def warmup(tiny):
    def make(updates=1, dropout=0.0):
        return Warmup(
            tiny.policy.model, tiny.answers.first_tokens(), OptimizerSettings(1e-2), updates, dropout=dropout
        )

    return make


def test_loss_is_over_items_alone_whatever_the_padding(warmup, tiny):
    sequences = [np.array([3, 1, 4, 1]), np.array([5, 9])]
    labels = torch.as_tensor(tiny.answers.first_tokens(), dtype=torch.long)
    total = 0.0
    with torch.no_grad():
        for sequence in sequences:
            logits = tiny.policy.model(input_ids=labels[torch.from_numpy(sequence[:-1])][None]).logits[0]
            logprobs = torch.log_softmax(logits[:, labels], -1)
            total -= sum(float(logprobs[place, item]) for place, item in enumerate(sequence[1:].tolist()))
        loss = float(warmup().loss(sequences))
    assert loss == pytest.approx(total / 4, rel=1e-5)


def test_warm_up_learns_what_follows_what(warmup, fit):
    sequences = [np.arange(start, start + 5) % 12 for start in range(12)]
    stage = warmup(updates=60)
    before = float(stage.loss(sequences))
    fit(stage, [sequences] * 60)
    assert before > math.log(12)  # worse than guessing, because the weights are sharpened
    assert float(stage.loss(sequences)) < 0.1


def test_dropout_acts_in_training_alone(warmup):
    stage = warmup(dropout=0.5)
    sequences = [np.array([3, 1, 4])]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        stage.train()
        assert float(stage.loss(sequences)) != float(stage.loss(sequences))
        stage.eval()
        assert float(stage.loss(sequences)) == float(stage.loss(sequences))


def test_packed_sequences_give_the_loss_and_gradients_of_padded_ones(warmup, monkeypatch):
    rng = np.random.default_rng(0)
    sequences = [rng.integers(0, 12, size=size) for size in (2, 9, 4, 2, 7)]
    stage, found = warmup(dropout=0.5), []
    assert packs(stage.model)
    for packed in (True, False):
        monkeypatch.setattr("mllmrec.phases.warmup.packs", lambda model, packed=packed: packed)
        stage.zero_grad()
        with torch.random.fork_rng():
            torch.manual_seed(0)  # the same draws of dropout
            loss = stage.loss(sequences)
        loss.backward()
        grads = [weight.grad.flatten() for weight in stage.model.parameters() if weight.grad is not None]
        found.append((loss.item(), torch.cat(grads).double()))
    (loss, gradient), (expected, reference) = found
    assert loss == pytest.approx(expected, rel=1e-6)
    assert float((gradient - reference).norm() / reference.norm()) < 1e-6
    # In all, 24 items but the first of each sequence are predicted, and the packed pass has a row for each.
    rows = stage._hidden([torch.from_numpy(items) for items in sequences])
    assert len(rows) == 24 - 5


def test_models_that_cannot_run_packed_run_padded(warmup):
    model = warmup().model
    for name, value in {
        "attention_dropout": 0.1,
        "_attn_implementation": "eager",
        "logit_scale": 2.0,
    }.items():
        before = getattr(model.config, name, None)
        setattr(model.config, name, value)
        assert not packs(model)
        setattr(model.config, name, before)
    assert packs(model)
    model.gradient_checkpointing_enable()
    assert not packs(model)
    model.gradient_checkpointing_disable()
