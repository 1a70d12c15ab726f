from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mllmrec.rl.regularizers import KlToReference
from mllmrec.step.reference import Ema, Frozen


def fill(policy, value):
    with torch.no_grad():
        for weight in policy.model.parameters():
            weight.fill_(value)


def seen_by(reference, policy):
    """The one number that all weights of the reference have."""
    with reference.model(policy) as model:
        assert not model.training
        (value,) = {float(value) for weight in model.parameters() for value in weight.detach().unique()}
    return value


def test_a_slow_reference_follows_by_hand(tiny):
    policy, reference = tiny.policy, Ema(decay=0.5, every=2)
    policy.model.train()
    fill(policy, 0.0)
    reference.begin(policy)
    seen = []
    for step, value in enumerate([1.0, 1.0, 3.0, 3.0]):
        fill(policy, value)
        reference.follow(policy, step)
        seen.append(seen_by(reference, policy))
        # The policy itself stays as it was.
        assert {float(weight.detach().flatten()[0]) for weight in policy.model.parameters()} == {value}
        assert policy.model.training
    # After steps 1 and 3: 0.5 · 0 + 0.5 · 1, and 0.5 · 0.5 + 0.5 · 3.
    assert seen == [0.0, 0.5, 0.5, 1.75]


def test_without_decay_it_is_the_policy_of_a_few_steps_ago(tiny):
    policy, reference = tiny.policy, Ema(decay=0.0, every=3)
    fill(policy, 0.5)
    reference.begin(policy)
    seen = []
    for step in range(7):
        fill(policy, step + 1.0)
        reference.follow(policy, step)
        seen.append(seen_by(reference, policy))
    assert seen == [0.5, 0.5, 3.0, 3.0, 3.0, 6.0, 6.0]


def test_a_slow_reference_goes_on_from_its_state(tiny):
    policy, reference, later = tiny.policy, Ema(decay=0.5, every=1), Ema(decay=0.5, every=1)
    fill(policy, 0.0)
    reference.begin(policy)
    fill(policy, 1.0)
    reference.follow(policy, 0)
    later.begin(policy)
    later.load_state_dict(reference.state_dict())
    assert seen_by(later, policy) == 0.5
    with pytest.raises(ValueError, match="Frozen keeps no state, but was given weights"):
        Frozen().load_state_dict({"weights": 1})


@pytest.mark.parametrize(("decay", "every"), [(1.0, 1), (-0.1, 1), (0.5, 0)])
def test_numbers_out_of_range_are_refused(decay, every):
    with pytest.raises(ValueError, match=r"decay=|every="):
        Ema(decay, every)


@pytest.mark.parametrize("size", [12, 5])
def test_a_slow_reference_leaves_the_rollouts_own_pass_alone(make_step, gradient_of, tiny, batch, size):
    step = make_step(
        regularizers=[KlToReference(0.5)],
        reference=Ema(0.5, 1),
        micro_batch_size=size,
        skip_zero_variance="never",
    )
    with torch.no_grad():
        for weight in tiny.policy.model.parameters():
            weight.mul_(0.9)
    rollouts = step.collect(batch, 0)
    assert (rollouts.known is not None) == (size == 12)
    loss, gradient = gradient_of(step, rollouts)
    again, expected = gradient_of(step, replace(rollouts, known=None))
    assert loss == pytest.approx(again, rel=1e-5)
    assert (gradient - expected).norm() < 1e-5 * expected.norm()


def test_only_the_end_of_a_step_moves_a_slow_reference(make_step, tiny, batch):
    reference = Ema(decay=0.0, every=1)
    step = make_step(regularizers=[KlToReference(0.5)], reference=reference, iterations=2)
    start = tiny.policy.model.get_output_embeddings().weight.detach().clone()

    def update(shares):
        for share in shares:
            share.backward()
        with torch.no_grad():
            for weight in tiny.policy.model.parameters():
                weight -= 0.1 * weight.grad
        return {}

    def head():
        with reference.model(tiny.policy) as model:
            return model.get_output_embeddings().weight.detach().clone()

    for _ in step.updates(step.collect(batch, 0), update):
        assert torch.equal(head(), start)
    assert torch.equal(head(), tiny.policy.model.get_output_embeddings().weight)
    assert not torch.equal(head(), start)
