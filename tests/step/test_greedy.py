"""The greedy completion beside the draws, for advantages that compare with it."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from mllmrec.rewards.base import TextReward
from mllmrec.rl.baselines import AboveGreedy
from mllmrec.rl.parts import GREEDY
from mllmrec.rollout.base import Turn
from mllmrec.rollout.constrained import Constrained
from mllmrec.rollout.enumerated import Enumerated
from mllmrec.rollout.free import Free
from mllmrec.rollout.lists import Listed
from mllmrec.rollout.reasoned import Reasoned
from mllmrec.testing import toy_speaker
from mllmrec.testing.toys import toy_examples


class Spelt(TextReward):
    """Pays each text another amount."""

    parts = ()
    bounds = (0.0, 1e6)

    def judge(self, completion, question):
        return {"reward": float(sum(place * byte for place, byte in enumerate(completion.encode(), 1)))}


def filled(collector, examples, group_size=3):
    turn = Turn(0, group_size)
    return collector.fill(collector.collect(examples, turn), frozenset({GREEDY}))


@pytest.mark.parametrize("rollout", [Constrained(), Enumerated()])
def test_the_most_likely_answer_of_each_prompt_is_judged(make_collector, batch, rollout):
    every = make_collector(rollout=Enumerated(), reward=Spelt()).collect(batch, Turn(0, 1))
    best = [
        int(torch.where(every.example_of == place, every.weights, 0.0).argmax())
        for place in range(len(batch))
    ]
    expected = every.rewards[best]
    assert expected.unique().numel() == len(batch)
    found = filled(make_collector(rollout=rollout, reward=Spelt()), batch)
    assert_close(found.greedy, expected[found.example_of])


@pytest.mark.parametrize("rollout", [Constrained(), Free(max_new_tokens=4)])
def test_it_is_what_a_temperature_of_zero_draws_and_changes_no_draw(make_collector, batch, rollout):
    collector = make_collector(rollout=rollout, reward=Spelt())
    found, plain = filled(collector, batch), make_collector(rollout=rollout, reward=Spelt())
    assert found.texts == plain.collect(batch, Turn(0, 3)).texts
    assert collector.speaker.plain.temperature == 1.0
    cold = make_collector(rollout=rollout.greedy(), reward=Spelt()).collect(batch, Turn(5, 1))
    assert_close(found.greedy, cold.rewards[found.example_of])


@pytest.mark.parametrize(
    "rollout", [Reasoned("sampled", max_reasoning_tokens=4), Listed(), Free(max_new_tokens=4)]
)
def test_each_rollout_has_one_greedy_completion(rollout):
    def texts(seed, greedy):
        return toy_speaker(rollout, seed=seed).complete(toy_examples(2), Turn(0, 4, greedy=greedy)).texts

    assert texts(0, True) == texts(1, True)
    assert texts(0, True)[:4] == texts(0, True)[:1] * 4
    assert texts(0, False) != texts(1, False)


def test_a_step_asks_for_it_only_if_the_advantage_does(make_step, batch):
    step = make_step(advantage=AboveGreedy(), reward=Spelt())
    found = step.collect(batch, 0)
    assert_close(found.advantages.cpu(), found.rewards - found.greedy)
    assert found.advantages.any()
    assert make_step(reward=Spelt()).collect(batch, 0).greedy is None
