"""Steps whose groups differ in size, whose rows were drawn by others, and whose parts do not fit."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mllmrec.phases.base import OptimizerSettings
from mllmrec.phases.grpo import Grpo
from mllmrec.rewards.base import TextReward
from mllmrec.rl.advantages import GroupRelative
from mllmrec.rl.losses import OF_THE_STEP, ClippedRatio
from mllmrec.rl.regularizers import KlToReference, Regularizer
from mllmrec.rollout.constrained import Constrained
from mllmrec.rollout.free import Free
from mllmrec.step.updates import Updates


class ByLabel(TextReward):
    """Pays the number in the answer, so that rewards differ in a group."""

    parts = ()
    bounds = (0.0, 11.0)

    def judge(self, completion, question):
        return {"reward": float(completion.removeprefix("[ITEM_").removesuffix("]"))}


STEP = 2  # in which the first two answers to the first prompt differ
# Of two draws of five rows, two rows of the first and all of the second.
RAGGED = [0, 1, 5, 6, 7, 8, 9]
MIXED = [8, 1, 5, 9, 7, 0, 6]


@pytest.fixture
def make_ragged(make_step, picked):
    def make(rows=RAGGED, **settings):
        own = {"reward": ByLabel(), "group_size": 5, "rollout": picked(Constrained(), rows), "begin": False}
        return make_step(**{**own, **settings})

    return make


@pytest.mark.parametrize("aggregation", OF_THE_STEP)
@pytest.mark.parametrize("beta", [0.0, 0.5])
def test_order_of_rows_and_micro_batches_change_nothing_in_ragged_groups(
    make_ragged, gradient_of, tiny, batch, aggregation, beta
):
    tiny.policy.begin_phase("grpo")
    with torch.no_grad():  # away from the reference
        for weight in tiny.policy.model.parameters():
            weight.mul_(0.9)
    found = []
    for rows, size in ((RAGGED, 7), (RAGGED, 1), (MIXED, 7), (MIXED, 3)):
        step = make_ragged(rows, micro_batch_size=size, aggregation=aggregation, beta=beta)
        rollouts = step.collect(batch, STEP)
        assert rollouts.groups.sizes.tolist() == [2, 5]
        assert rollouts.group_of.tolist() == [0, 0, 1, 1, 1, 1, 1]
        assert rollouts.groups.any(rollouts.advantages != 0).all()
        found.append(gradient_of(step, rollouts))
    (loss, gradient), *others = found
    assert abs(loss) > 1e-3
    for again, its_gradient in others:
        assert again == pytest.approx(loss, rel=1e-5)
        assert (its_gradient - gradient).norm() < 1e-5 * gradient.norm()


def test_the_loss_of_ragged_groups_by_hand(make_ragged, gradient_of, batch):
    step = make_ragged(MIXED, aggregation="sequence_mean")
    rollouts = step.collect(batch, STEP)
    labels = torch.tensor([float(text[6:-1]) for text in rollouts.texts])
    assert labels[0] != labels[1]
    assert torch.equal(rollouts.rewards, labels)
    advantages = torch.cat([(one - one.mean()) / (one.std() + 1e-4) for one in labels.split([2, 5])])
    # Answers are one choice each, with ratio exp(0.04 row); rows 1, 0 and 8, 5, 9, 7, 6 in the order of their groups.
    ratios = (0.04 * torch.tensor([1.0, 0, 8, 5, 9, 7, 6])).exp()
    expected = -torch.minimum(ratios * advantages, ratios.clamp(0.8, 1.2) * advantages).mean()
    assert gradient_of(step, rollouts)[0] == pytest.approx(float(expected), rel=1e-4)


class Remembering(ClippedRatio):
    """Keeps what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.given: list = []

    def __call__(self, inputs):
        self.given.append(inputs)
        return super().__call__(inputs)


class WholeGroups(Remembering):
    whole_groups = True


class WholeTerm(Regularizer):
    """Adds nothing, but must see groups whole."""

    whole_groups = True

    def weight(self, step):
        return 1.0

    def __call__(self, inputs):
        return torch.zeros_like(inputs.logprobs)


@pytest.mark.parametrize("by_loss", [True, False])
@pytest.mark.parametrize(
    ("size", "cut"),
    # Groups of 2, 5 and 3: one that is larger than a micro-batch stands alone.
    [(1, [[0], [1], [2]]), (4, [[0], [1], [2]]), (7, [[0, 1], [2]]), (8, [[0, 1], [2]]), (10, [[0, 1, 2]])],
)
def test_groups_are_not_cut_where_a_part_must_see_them_whole(
    make_ragged, make_examples, gradient_of, tiny, size, cut, by_loss
):
    examples, rows = make_examples(tiny.builder), [12, 0, 5, 9, 6, 13, 1, 8, 7, 14]
    loss = WholeGroups() if by_loss else Remembering()
    settings = {"micro_batch_size": size, "skip_zero_variance": "never"}
    step = make_ragged(rows, loss=loss, regularizers=[] if by_loss else [WholeTerm()], **settings)
    rollouts = step.collect([examples[0], examples[3], examples[4]], 0)
    assert rollouts.groups.sizes.tolist() == [2, 5, 3]
    whole, gradient = gradient_of(step, rollouts)
    assert [inputs.group_of.unique().tolist() for inputs in loss.given] == cut
    assert sum(len(inputs.group_of) for inputs in loss.given) == 10
    free, expected = gradient_of(make_ragged(rows, **settings), rollouts)
    assert whole == pytest.approx(free, rel=1e-5)
    assert (gradient - expected).norm() < 1e-5 * expected.norm()


@pytest.mark.parametrize("size", [7, 3])
def test_probabilities_of_whoever_drew_the_rows_are_the_old_ones(make_ragged, tiny, batch, size):
    loss, iterations = Remembering(), 2
    step = make_ragged(loss=loss, micro_batch_size=size, iterations=iterations)
    rollouts = step.collect(batch, STEP)
    assert (rollouts.old[rollouts.learnt] != 0).any()

    def update(shares):
        for share in shares:
            share.backward()
        with torch.no_grad():
            for weight in tiny.policy.model.parameters():
                weight -= 0.01 * weight.grad
        return {}

    assert len(list(step.updates(rollouts, update))) == iterations
    parts = len(loss.given) // iterations
    for start in (0, parts):
        old = torch.cat([inputs.old for inputs in loss.given[start : start + parts]])
        assert torch.equal(old, rollouts.old)
    first, second = (loss.given[start].logprobs for start in (0, parts))
    assert not torch.equal(first, second)


def test_a_rollout_that_hides_who_drew_its_rows_is_refused(make_ragged, picked, batch):
    step = make_ragged(rollout=picked(Constrained(), RAGGED, says_old=False))
    with pytest.raises(ValueError, match="Picked is off-policy and left `old` empty"):
        step.collect(batch, 0)


class ByToken(GroupRelative):
    """Pays only the first token of each answer."""

    varies = "token"

    def __call__(self, batch):
        advantages = torch.zeros(batch.learnt.shape)
        advantages[:, 0] = super().__call__(batch)
        return advantages


class ForSequences(ClippedRatio):
    accepts = frozenset({"sequence"})


def test_an_advantage_by_token_needs_a_loss_that_accepts_it(make_step, gradient_of, batch):
    with pytest.raises(
        ValueError, match=r"ByToken varies by token, and ForSequences accepts only .* sequence"
    ):
        make_step(advantage=ByToken(), loss=ForSequences())
    loss = Remembering()
    step = make_step(
        advantage=ByToken(),
        loss=loss,
        rollout=Free(max_new_tokens=4),
        aggregation="constant",
        reward=Numbered(),
    )
    rollouts = step.collect(batch, 0)
    found, _ = gradient_of(step, rollouts)
    assert torch.equal(torch.cat([inputs.advantages for inputs in loss.given]), rollouts.advantages)
    # On policy the loss is minus the sum of advantages over 12 rows of 4 tokens: 0, as those of a group sum to 0.
    assert found == pytest.approx(0, abs=1e-6)
    twice = replace(rollouts, advantages=rollouts.advantages.clamp_min(0))
    expected = -float(twice.advantages.sum()) / (12 * 4)
    assert gradient_of(step, twice)[0] == pytest.approx(expected, rel=1e-5)


class Numbered(TextReward):
    """Pays the length of a text."""

    parts = ()
    bounds = (0.0, 1000.0)

    def judge(self, completion, question):
        return {"reward": float(len(completion))}


def test_a_part_that_needs_a_reference_does_not_go_without(make_step, gradient_of, batch):
    step = make_step(regularizers=[KlToReference(0.1)])
    with pytest.raises(ValueError, match="needs a reference, and there is none"):
        gradient_of(step, step.collect(batch, 0))


def test_steps_without_a_trainer_are_those_of_the_stage(make_step, tiny, batch, fit):
    start = {name: weight.clone() for name, weight in tiny.policy.model.state_dict().items()}
    settings = {"iterations": 2, "beta": 0.1, "micro_batch_size": 12}
    stage = Grpo(make_step(**settings), OptimizerSettings(1e-2, schedule="constant"), 3)
    logged: list[dict] = []
    stage.log_step = logged.append
    fit(stage, [batch] * 3)
    trained = {name: weight.clone() for name, weight in tiny.policy.model.state_dict().items()}
    tiny.policy.model.load_state_dict(start)
    step = make_step(**settings)
    optimizer = torch.optim.AdamW(tiny.policy.model.parameters(), lr=1e-2, weight_decay=0.0, fused=True)
    update = Updates(optimizer, torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0))
    numbers = [found for index in range(3) for found in step.updates(step.collect(batch, index), update)]
    assert not torch.equal(trained["lm_head.weight"], start["lm_head.weight"])
    for name, weight in tiny.policy.model.state_dict().items():
        assert torch.equal(weight, trained[name])
    assert [one["loss"] for one in numbers] == [one["loss"] for one in logged]
    assert numbers[-1].items() <= logged[-1].items()


class ByLength(TextReward):
    """Pays for characters."""

    parts = ()
    bounds = (0.0, 100.0)

    def judge(self, completion, question):
        return {"reward": float(len(completion))}


@pytest.mark.parametrize(
    "settings", [{"entropy_share": 0.5}, {"off_policy_limit": 0.05}, {"entropy_share": 0.5, "beta": 0.5}]
)
def test_switches_leave_out_tokens_of_the_policy_loss_alone(
    make_ragged, picked, gradient_of, tiny, batch, settings
):
    # Free answers: their tokens differ in entropy.
    def make_free(**others):
        return make_ragged(rollout=picked(Free(max_new_tokens=4), RAGGED), reward=ByLength(), **others)

    tiny.policy.begin_phase("grpo")
    with torch.no_grad():  # away from the reference
        for weight in tiny.policy.model.parameters():
            weight.mul_(0.9)
    found = []
    for size in (7, 2):
        step, sums = make_free(micro_batch_size=size, **settings), {}
        rollouts = step.collect(batch, STEP)
        # Every second answer became less likely, by half a nat minus the 0.04 nats for each row that it rose.
        rows = torch.arange(len(rollouts))[:, None]
        old = rollouts.old + torch.where(rows % 2 == 0, 0.5, 0.0) * rollouts.learnt
        rollouts = replace(rollouts, old=old, reference=old)
        found.append(gradient_of(step, rollouts))
        list(step.loss_shares(rollouts, sums))
        assert 0 < sums["left_out_mean"] < sums["tokens"]
    (loss, gradient), (again, its_gradient) = found
    assert again == pytest.approx(loss, rel=1e-5)
    assert (its_gradient - gradient).norm() < 1e-5 * gradient.norm()
    plain, _ = gradient_of(make_free(beta=settings.get("beta", 0.0)), rollouts)
    assert abs(plain - loss) > 1e-4


def test_means_of_micro_batches_are_averaged_with_groups_that_teach_nothing(make_ragged, gradient_of, batch):
    step = make_ragged(aggregation="micro_batch_mean", micro_batch_size=2, skip_zero_variance="auto")
    rollouts = step.collect(batch, STEP)
    # Without an advantage, the first group's two rows are a micro-batch with a loss of 0.
    quiet = replace(rollouts, advantages=rollouts.advantages * (rollouts.group_of > 0))
    shares = [float(share.detach()) for share in step.loss_shares(quiet, {})]
    assert len(shares) == 4
    assert shares[0] == 0
    # Answers are one token each: a quarter of the mean of the rows' terms.
    alone = make_ragged(aggregation="token_mean", micro_batch_size=1)
    terms = [float(share.detach()) * 7 for share in alone.loss_shares(quiet, {})]
    expected = [sum(terms[:2]) / 8, sum(terms[2:4]) / 8, terms[4] / 4]
    assert shares[1:] == pytest.approx(expected, rel=1e-4)
