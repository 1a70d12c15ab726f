from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from mllmrec.config import CONFIG_DIR, check_config
from mllmrec.config.compose import compose_checked
from mllmrec.errors import ConfigError
from mllmrec.rollout.base import Turn
from mllmrec.rollout.constrained import Constrained
from mllmrec.rollout.enumerated import Enumerated
from mllmrec.rollout.free import Free
from mllmrec.testing import check_advantage, check_rollout, toy_batch, toy_speaker
from mllmrec.testing.toys import toy_examples
from mllmrec.variants.reinforce_ada import Adaptive, PoolBaseline


def test_the_baseline_is_that_of_the_whole_pool():
    # 3 positive of 16, p = 3/16.
    pool = {"mean": torch.tensor([3 / 16]), "std": torch.tensor([(3 / 16 * 13 / 16) ** 0.5])}
    batch = replace(toy_batch(["a"] * 4, rewards=[1.0, 1, 0, 0]), pool=pool)
    expected = torch.tensor([0.8125, 0.8125, -0.1875, -0.1875])
    assert_close(PoolBaseline()(batch), expected)
    assert_close(PoolBaseline(scale=True)(batch), expected / 0.390312, atol=1e-4, rtol=0)


class Scripted:
    """Rewards in the order of the draws, for each example; every other part is the toy policy's."""

    def __init__(self, rollout, rewards):
        self.speaker, self.rewards, self.asked = toy_speaker(rollout), rewards, []

    def complete(self, examples, turn, **how):
        self.asked.append(how["which"])
        return self.speaker.complete(examples, turn, **how)

    def judge(self, batch):
        given = [self.rewards[place].pop(0) for place in batch.example_of.tolist()]
        return replace(batch, rewards=torch.tensor(given))


def test_prompts_are_asked_until_they_have_what_they_need():
    rollout = Adaptive(Constrained(), draws=2, rounds=3)
    # Balanced with two kept: one positive and one other.
    script = Scripted(rollout, [[1.0, 0.0], [0.0, 0.0, 0.0, 1.0], [0.0] * 6])
    given = rollout(toy_examples(3), script, script.judge, Turn(0, 2))
    assert script.asked == [[0, 1, 2], [1, 2], [2]]
    assert given.group_of.tolist() == [0, 0, 1, 1, 2, 2]
    assert given.judged().tolist() == [1.0, 0.0, 0.0, 1.0, 0.0, 0.0]
    assert_close(given.pool["mean"], torch.tensor([0.5, 0.25, 0.0]))
    assert_close(PoolBaseline()(given), torch.tensor([0.5, -0.5, -0.25, 0.75, 0.0, 0.0]))
    # Pools of 2, 4 and 6 with means 1/2, 1/4 and 0; the kept answers have 1/3 on average, which is not the policy's share.
    assert rollout.metrics() == pytest.approx(
        {"adaptive/pool_size": 4.0, "adaptive/pool_reward": 0.25, "adaptive/without_positive": 1 / 3}
    )


def test_one_positive_answer_can_be_enough():
    rollout = Adaptive(Constrained(), draws=2, rounds=3, until="positive")
    script = Scripted(rollout, [[1.0, 1.0], [0.0, 0.0, 1.0, 0.0]])
    given = rollout(toy_examples(2), script, script.judge, Turn(0, 4))
    assert script.asked == [[0, 1], [1]]
    # The first prompt has a pool of two, and keeps both.
    assert given.group_of.tolist() == [0, 0, 1, 1, 1, 1]


@pytest.mark.parametrize(
    ("rewards", "kept"),
    [
        ([0, 0, 1, 0, 1, 1, 0, 0], [0, 1, 2, 4]),  # two of each, the earliest
        ([0, 0, 0, 0, 0, 1, 0, 0], [0, 1, 2, 5]),  # one positive
        ([1, 1, 1, 1, 1, 1, 1, 0], [0, 1, 2, 7]),  # one other
        ([0, 0, 0, 0, 0, 0, 0, 0], [0, 1, 2, 3]),
        ([1, 0, 1], [0, 1, 2]),  # fewer than wanted
    ],
)
def test_a_pool_is_cut_down_in_balance(rewards, kept):
    batch = toy_batch(["a"] * len(rewards), rewards=[float(one) for one in rewards])
    assert Adaptive(Constrained()).kept(batch, 4).tolist() == kept


@pytest.mark.parametrize("inner", [Constrained(), Free(max_new_tokens=4)])
@pytest.mark.parametrize("until", ["positive", "balanced"])
def test_it_is_a_rollout(inner, until):
    check_rollout(Adaptive(inner, draws=3, rounds=3, until=until))


@pytest.mark.parametrize("scale", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_it_is_an_advantage(scale, weighted):
    check_advantage(PoolBaseline(scale=scale), weighted=weighted)


def test_a_rollout_of_all_answers_is_refused():
    with pytest.raises(ValueError, match="all answers"):
        Adaptive(Enumerated())


def test_the_variant_composes():
    composed = compose_checked("train", ["variant=reinforce_ada"], CONFIG_DIR)
    assert composed.faults == []
    check_config(composed.config)
    # One of its parts can be exchanged.
    composed = compose_checked("train", ["variant=reinforce_ada", "advantage=grpo"], CONFIG_DIR)
    check_config(composed.config)
    assert composed.config.advantage._target_.endswith("GroupRelative")


@pytest.mark.parametrize(
    ("override", "fault"),
    [
        ("rollout.inner.temperature=-1", "rollout.inner.temperature=-1: must be greater than 0"),
        ("+rollout.inner.temperatur=1", "rollout.inner.temperatur: no such setting here"),
        ("rollout@rollout.inner=enumerate", "rollout: the rollout inside returns all answers at once"),
    ],
)
def test_the_rollout_inside_is_checked_as_any_other(override, fault):
    composed = compose_checked("train", ["variant=reinforce_ada", override], CONFIG_DIR)
    assert composed.faults == []
    with pytest.raises(ConfigError) as raised:
        check_config(composed.config)
    (found,) = raised.value.faults
    assert found.startswith(fault)


def test_any_draw_can_stand_inside():
    composed = compose_checked("train", ["variant=reinforce_ada", "rollout@rollout.inner=free"], CONFIG_DIR)
    assert composed.faults == []
    check_config(composed.config)
    assert composed.config.rollout.inner.max_new_tokens == 64
