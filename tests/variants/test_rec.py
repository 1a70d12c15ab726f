from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from mllmrec.config import CONFIG_DIR, check_config
from mllmrec.config.capabilities import capability
from mllmrec.config.compose import compose_checked
from mllmrec.rl.losses import ClippedRatio, LossInputs, aggregate
from mllmrec.testing import check_advantage, check_loss, check_regularizer, toy_batch
from mllmrec.testing.trials import trial_faults
from mllmrec.variants.rec import CLIPS, WEIGHTS, Balanced, NearOld, Rec

# Advantage, ratio, and whether two_side, one_side and ring keep the token.
MASKS = [
    (1.0, 0.3, (False, True, True)),
    (1.0, 0.7, (False, True, False)),
    (1.0, 1.1, (True, True, True)),
    (-1.0, 1.1, (True, True, True)),
    (1.0, 1.5, (False, False, False)),
    (1.0, 3.5, (False, False, False)),
    (-1.0, 0.3, (False, False, False)),
    (-1.0, 0.7, (False, False, False)),
    (-1.0, 1.5, (False, True, False)),
    (-1.0, 3.5, (False, True, True)),
]


def all_pairs() -> LossInputs:
    """A row of one token for each advantage and ratio of `MASKS`."""
    advantages, ratios, _ = zip(*MASKS, strict=True)
    old = torch.full((len(ratios), 1), -1.0)
    logprobs = (old + torch.tensor(ratios)[:, None].log()).requires_grad_()
    weight = torch.tensor(advantages)[:, None] * 2
    return LossInputs(logprobs, old, weight, torch.ones_like(old, dtype=torch.bool), torch.zeros_like(old))


@pytest.mark.parametrize(("place", "clip"), list(enumerate(("two_side", "one_side", "ring"))))
def test_which_tokens_stay(place, clip):
    given = all_pairs()
    result = Rec(clip)(given)
    kept = torch.tensor([masks[place] for *_, masks in MASKS])[:, None]
    assert torch.equal(result.metrics["clip_ratio/left_out_mean"], ~kept)
    result.terms.sum().backward()
    assert_close(given.logprobs.grad, torch.where(kept, -given.advantages, 0.0))


def test_one_side_with_importance_weights_has_the_gradient_of_ppos_clip():
    given = all_pairs()
    gradients = [
        torch.autograd.grad(loss(given).terms.sum(), given.logprobs)[0]
        for loss in (Rec("one_side", "importance_sampling", 0.2, 0.28), ClippedRatio(0.2, 0.28))
    ]
    assert (gradients[0] == 0).any()
    assert_close(*gradients)


@pytest.mark.parametrize("advantage", [1.0, -1.0])
@pytest.mark.parametrize("shift", [0.0, 0.3, -0.3])
def test_at_the_level_of_sequences_it_has_the_gradient_of_gspo(advantage, shift):
    # Geometric means of 1.044009 times exp(shift), over four tokens that count.
    ratios = torch.tensor([[1.1, 0.9, 1.2, 1.0, 5.0]])
    old = torch.full((1, 5), -1.0)
    logprobs = (old + ratios.log() + shift).requires_grad_()
    mask = torch.tensor([[True] * 4 + [False]])
    given = LossInputs(logprobs, old, torch.tensor([[advantage]]), mask, torch.zeros(1, 5))
    gradients = []
    for loss in (Rec("one_side", "importance_sampling", level="sequence"), ClippedRatio(level="sequence")):
        found = aggregate(loss(given).terms, mask, "sequence_mean", tokens=4, sequences=1, max_length=5)
        gradients.append(torch.autograd.grad(found, logprobs, retain_graph=True)[0])
    assert (gradients[0] == 0).all() == (advantage * shift > 0)
    assert_close(*gradients)


def test_surplus_bad_answers_are_dropped():
    # One good answer of four: two of the three bad ones go, and 1 and 0 are left. Two of four: none goes.
    batch = toy_batch(
        ["a", "b", "c", "d"] * 2, rewards=[1.0, 0, 0, 0, 1, 1, 0, 0], group_of=[0] * 4 + [1] * 4
    )
    part = Balanced()
    given = part(batch)
    assert sorted(given[:4].tolist()) == [-0.5, 0.0, 0.0, 0.5]
    assert given[0] == 0.5
    assert given[4:].tolist() == [0.5, 0.5, -0.5, -0.5]
    assert part.metrics() == {"red_drop/dropped": 0.25}
    # Other seeds drop others.
    assert len({tuple(Balanced(seed)(batch).tolist()) for seed in range(20)}) == 3


def test_graded_rewards_are_good_from_the_mean_on():
    # Mean 0.5: 1 and 0.6 are good, and of 0.4, 0.3 and 0.2 one goes; the rest is compared with its own mean.
    batch = toy_batch(["a", "b", "c", "d", "e"], rewards=[1.0, 0.6, 0.4, 0.3, 0.2])
    given = Balanced()(batch)
    (dropped,) = (given == 0).nonzero()[:, 0].tolist()
    assert dropped >= 2
    stays = torch.arange(5) != dropped
    assert_close(given[stays], batch.rewards[stays] - batch.rewards[stays].mean())


def test_dropping_is_an_advantage_of_draws():
    check_advantage(Balanced())
    with pytest.raises(ValueError, match="choose another rollout"):
        Balanced()(toy_batch(["a", "b"], rewards=[1.0, 0], weights=[0.5, 0.5]))


def test_better_answers_weigh_more():
    given = all_pairs()
    terms = Rec("none", "advantage", temperature=2.0)(given).terms
    # exp(2 / 2) = e where A = 2, exp(-1) where A = -2.
    expected = -given.advantages * (given.advantages / 2).exp() * given.logprobs
    assert_close(terms, expected)


def test_what_holds_the_policy_near():
    given = all_pairs()
    # ln 0.3 = -1.203973, squared 1.449551.
    assert NearOld()(given)[0].item() == pytest.approx(1.449551)
    assert NearOld(kind="forward")(given)[0].item() == pytest.approx(2.203973)


@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("weight", WEIGHTS)
def test_they_are_losses(clip, weight):
    check_loss(Rec(clip, weight))
    check_loss(Rec(clip, weight, level="sequence"))


@pytest.mark.parametrize("weight", WEIGHTS)
def test_far_ratios_and_advantages_stay_finite(weight):
    logprobs = torch.full((4, 1), -500.0, requires_grad=True)
    old = torch.tensor([[-1.0], [-1.0], [-1000.0], [-1000.0]])
    advantages = torch.tensor([[300.0], [-300.0], [300.0], [0.0]])
    mask = torch.ones(4, 1, dtype=torch.bool)
    terms = Rec("none", weight)(LossInputs(logprobs, old, advantages, mask, torch.zeros(4, 1))).terms
    terms.sum().backward()
    assert terms.isfinite().all()
    assert logprobs.grad.isfinite().all()
    assert logprobs.grad[3] == 0


@pytest.mark.parametrize("kind", ["k2", "forward"])
def test_they_are_regularizers(kind):
    check_regularizer(NearOld(kind=kind))


@pytest.mark.parametrize(
    ("variant", "advantage"),
    [
        ("rec", "GroupRelative"),
        ("rep", "GroupRelative"),
        ("red_drop", "Balanced"),
        ("opmd", "Mirror"),
        ("asymre", "Shifted"),
    ],
)
def test_the_variants_are_whole(variant, advantage):
    composed = compose_checked("train", [f"variant={variant}"], CONFIG_DIR)
    assert composed.faults == []
    check_config(composed.config, trial_faults)
    assert composed.config.advantage._target_.endswith(advantage)
    assert composed.config.advantage.get("scale", "none") == "none"


@pytest.mark.parametrize(("loss", "alone"), [("reinforce", True), ("opmd", False), ("rec", False)])
def test_only_plain_reinforce_is_refused_where_another_policy_draws(loss, alone):
    section = compose_checked("train", [f"loss={loss}"], CONFIG_DIR).config.loss
    assert capability(section, "on_policy_only", False) is alone


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Rec("both"), "none, two_side, one_side, ring"),
        (lambda: Rec(weight="reward"), "none, importance_sampling, advantage"),
        (lambda: Rec(temperature=0.0), "temperature=0.0"),
        (lambda: Rec(level="row"), "token, sequence"),
        (lambda: NearOld(kind="k3"), "k2, forward"),
    ],
)
def test_settings_that_cannot_work_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()
