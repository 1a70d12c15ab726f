from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from mllmrec.config import CONFIG_DIR, check_config
from mllmrec.config.compose import compose_checked
from mllmrec.rl.losses import LossInputs, aggregate
from mllmrec.testing import check_loss
from mllmrec.testing.trials import trial_faults
from mllmrec.variants.reg_grpo import RegGrpo

ADVANTAGES = [0.866025, -0.866025, -0.866025, 0.866025]  # of the rewards 1, 0, 0, 1


def inputs_of(distances, advantages, groups, mask=None, weights=None) -> LossInputs:
    """(r, T) nats that completions moved, and (r,) advantages and groups."""
    logprobs = torch.tensor(distances).requires_grad_()
    mask = torch.ones_like(logprobs, dtype=torch.bool) if mask is None else torch.tensor(mask)
    return LossInputs(
        logprobs,
        torch.zeros_like(logprobs),
        torch.tensor(advantages)[:, None],
        mask,
        torch.zeros_like(logprobs),
        group_of=torch.tensor(groups),
        weights=weights,
    )


def loss_of(part: RegGrpo, given: LossInputs):
    """The mean over sequences."""
    rows = len(given.mask) if given.weights is None else float(given.weights.sum())
    terms = part(given).terms
    return aggregate(
        terms,
        given.mask,
        "sequence_mean",
        tokens=1,
        sequences=rows,
        max_length=9,
        weights=given.weights,
    )


def test_a_group_by_hand():
    # g = 0.1, -0.1, 0, 0.2 has the mean 0.05 and the deviation 0.129099: g' = 0.3873, -1.1619, -0.3873, 1.1619.
    given = inputs_of([[0.1], [-0.1], [0.0], [0.2]], ADVANTAGES, [7] * 4)
    assert loss_of(RegGrpo(epsilon=1e-6), given).item() == pytest.approx(0.15836, abs=1e-5)


def test_lengths_and_other_groups_change_nothing():
    part = RegGrpo(epsilon=1e-6)
    # The same means over tokens, beside a group of three, in which all differ by the same.
    given = inputs_of(
        [[0.1, 9.0], [-0.2, 0.0], [0.0, 0.0], [0.2, 0.2], [1.0, 1.0], [2.0, 2.0], [3.0, 3.0]],
        [*ADVANTAGES, -1.0, 0.0, 1.0],
        [2] * 4 + [5] * 3,
        [[True, False], *[[True, True]] * 6],
    )
    terms = part(given).terms
    assert terms[:4, 0].mean().item() == pytest.approx(0.15836, abs=1e-5)
    assert_close(terms[4:], torch.zeros(3, 2), atol=1e-5, rtol=0)
    # The sum instead of the mean: the second and the fourth are twice as far as their tokens.
    far = inputs_of([[0.1], [-0.1], [0.0], [0.2]], ADVANTAGES, [7] * 4)
    near = inputs_of([[0.05, 0.05], [-0.1, 0.0], [0.0, 0.0], [0.1, 0.1]], ADVANTAGES, [7] * 4)
    assert_close(loss_of(RegGrpo(ratio="sum"), near), loss_of(RegGrpo(), far))


def test_the_first_update_follows_the_advantages():
    given = inputs_of([[0.0], [0.0], [0.0], [0.0]], ADVANTAGES, [0] * 4)
    loss = loss_of(RegGrpo(epsilon=1e-4), given)
    # The mean of A², which is 3 / 4 of its variance of 1.
    assert loss.item() == pytest.approx(0.75, abs=1e-5)
    loss.backward()
    # -2 A / sqrt(1e-4) / 4.
    assert_close(given.logprobs.grad, -50 * torch.tensor(ADVANTAGES)[:, None])


def test_equal_rewards_pull_log_ratios_together():
    # Why skip_zero_variance=never: without advantages, the sum of g'² is 3 var / (var + epsilon), which grows with var.
    given = inputs_of([[0.01], [-0.01], [0.0], [0.0]], [0.0] * 4, [0] * 4)
    loss_of(RegGrpo(epsilon=1e-4), given).backward()
    above, below, *others = given.logprobs.grad[:, 0].tolist()
    assert above == pytest.approx(-below)
    assert above > 0
    assert others == pytest.approx([0.0, 0.0], abs=1e-6)


def test_a_weight_is_a_probability():
    # Two answers with probability 1/4 and 3/4: mean 0.3, variance 0.03, g' = -sqrt 3 and 1 / sqrt 3.
    given = inputs_of([[0.0], [0.4]], [0.0, 0.0], [0, 0], weights=torch.tensor([0.25, 0.75]))
    terms = RegGrpo(epsilon=1e-9)(given).terms
    assert_close(terms, torch.tensor([[3.0], [1 / 3]]), atol=1e-4, rtol=0)


@pytest.mark.parametrize("ratio", ["mean", "sum"])
def test_far_answers_and_equal_rewards_stay_finite(ratio):
    given = inputs_of([[1000.0], [-1000.0], [0.0], [5.0]], [0.0, 0.0, 0.0, 0.0], [0, 0, 1, 2])
    loss = loss_of(RegGrpo(ratio=ratio), given)
    loss.backward()
    assert loss.isfinite()
    assert given.logprobs.grad.isfinite().all()


@pytest.mark.parametrize("ratio", ["mean", "sum"])
def test_it_is_a_loss(ratio):
    check_loss(RegGrpo(ratio=ratio))


def test_the_variant_is_whole():
    composed = compose_checked("train", ["variant=reg_grpo"], CONFIG_DIR)
    assert composed.faults == []
    check_config(composed.config, trial_faults)
    grpo = composed.config.grpo
    assert (grpo.aggregation, grpo.skip_zero_variance) == ("sequence_mean", "never")


@pytest.mark.parametrize(
    ("make", "words"),
    [(lambda: RegGrpo(epsilon=0.0), "epsilon=0.0"), (lambda: RegGrpo(ratio="last"), "mean, sum")],
)
def test_settings_that_cannot_work_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()
