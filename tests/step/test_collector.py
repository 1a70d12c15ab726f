"""Rewards on their way to the update: what changes them, and what their parts need."""

from __future__ import annotations

import torch

from mllmrec.rewards.base import Reward, Rewards, Shaper
from mllmrec.rl.parts import OLD, REFERENCE, TEACHER
from mllmrec.rl.regularizers import Regularizer
from mllmrec.rollout.base import Turn, WrappedRollout
from mllmrec.rollout.constrained import Constrained
from mllmrec.step.reference import Frozen
from mllmrec.step.teacher import Teacher


class Doubled(Shaper):
    parts = ("doubled",)

    def __call__(self, batch):
        return Rewards(2 * batch.judged(), {"doubled": 2 * batch.judged()})

    def bounds(self, low, high):
        return 2 * low, 2 * high


class Raised(Shaper):
    def __call__(self, batch):
        return Rewards(batch.judged() + 1)

    def bounds(self, low, high):
        return low + 1, high + 1


def test_rewards_are_changed_in_the_order_of_shapers(make_collector, batch):
    plain = make_collector().collect(batch, Turn(0, 6))
    assert plain.rewards.unique().tolist() == [0.0, 1.0]
    both = make_collector(shapers=[Doubled(), Raised()])
    found = both.collect(batch, Turn(0, 6))
    assert torch.equal(found.rewards, 2 * plain.rewards + 1)
    assert torch.equal(found.parts["doubled"], 2 * plain.rewards)
    assert torch.equal(found.parts["hit"], plain.parts["hit"])
    # Rewards of hit_format lie from -1 to 1.
    assert both.bounds == (-1, 3)
    turned = make_collector(shapers=[Raised(), Doubled()])
    assert torch.equal(turned.collect(batch, Turn(0, 6)).rewards, 2 * plain.rewards + 2)
    assert turned.bounds == (0, 4)


class GroupSize(Reward):
    """Pays every row the size of its group."""

    parts = ()
    bounds = (0.0, 6.0)

    def __call__(self, batch):
        return Rewards(batch.groups.rows(batch.groups.sizes).float())


class Halved(WrappedRollout):
    """Keeps half of what was judged."""

    def __call__(self, examples, speaker, judge, turn):
        batch = judge(self.inner(examples, speaker, judge, turn))
        return batch.take(torch.arange(0, len(batch), 2))


def test_a_reward_of_groups_sees_the_groups_that_are_left(make_collector, batch):
    found = make_collector(rollout=Halved(Constrained()), reward=GroupSize()).collect(batch, Turn(0, 6))
    assert found.rewards.tolist() == [3.0] * 6


class ByReference(Shaper):
    """Pays what the reference thinks of an answer."""

    needs = frozenset({REFERENCE})

    def __call__(self, batch):
        return Rewards(batch.reference.sum(1))


def test_a_shaper_gets_what_it_needs(make_collector, tiny, batch):
    tiny.policy.begin_phase("grpo")
    collector = make_collector(shapers=[ByReference()], reference=Frozen())
    found = collector.collect(batch, Turn(0, 6))
    # The policy has not moved yet.
    assert torch.equal(found.rewards, collector.speaker.score(found).sum(1))
    assert (found.rewards < 0).all()


class ByOldPolicy(Shaper):
    """Pays how likely an answer was when it was drawn."""

    needs = frozenset({OLD})

    def __call__(self, batch):
        return Rewards(batch.old.sum(1))


def test_old_scores_are_the_policy_s_unless_the_rollout_brings_others(make_collector, picked, batch):
    own = make_collector(shapers=[ByOldPolicy()])
    found = own.collect(batch, Turn(0, 6))
    scores = own.speaker.score(found).sum(1)
    assert (scores < 0).all()
    assert torch.equal(found.rewards, scores)
    # Each row of this rollout was drawn by a policy of its own, 0.04 nats further from this one.
    others = make_collector(rollout=picked(Constrained(), list(range(12))), shapers=[ByOldPolicy()])
    torch.testing.assert_close(others.collect(batch, Turn(0, 6)).rewards, scores - 0.04 * torch.arange(12))


class Halves(Teacher):
    """Gives every token a probability of a half."""

    def __call__(self, batch, speaker, rows=None):
        return torch.full(batch.learnt.shape, 0.5).log()


class ToTeacher(Regularizer):
    name, needs = "teacher", frozenset({TEACHER})

    def weight(self, step):
        return 1.0

    def __call__(self, inputs):
        return inputs.logprobs - inputs.teacher


def test_a_teacher_is_asked_if_a_part_needs_one(make_step, batch):
    step = make_step(regularizers=[ToTeacher()], teacher=Halves())
    rollouts = step.collect(batch, 0)
    assert rollouts.teacher is None
    (numbers,) = step.updates(
        rollouts, lambda shares: {"loss": sum(float(share.detach()) for share in shares)}
    )
    # One choice each: the mean over answers of log 2p; the policy loss itself is 0 on average.
    expected = (step.speaker.score(rollouts).sum(1) - torch.tensor(0.5).log()).mean()
    torch.testing.assert_close(torch.tensor(numbers["teacher"]), expected)
    torch.testing.assert_close(torch.tensor(numbers["loss"]), expected)
