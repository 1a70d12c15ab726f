from __future__ import annotations

import numpy as np
import pytest
import torch

from mllmrec.rollout.base import Turn
from mllmrec.rollout.free import Free
from mllmrec.testing import check_sampler, toy_speaker
from mllmrec.testing.toys import toy_examples
from mllmrec.variants.one_shot import OneShot


def watched(part, pool, observed, histories):
    """Each entry's accuracies over the passes, two entries a step."""
    part.begin(pool)
    visits = dict.fromkeys(range(pool.size), 0)
    for step in range(8):
        entries = part.plan(step)
        told = []
        for entry in entries.tolist():
            told.append([histories[entry][visits[entry]]])
            visits[entry] += 1
        part.observe(entries, observed(told, step))
    assert set(visits.values()) == {4}


def test_the_prompt_whose_accuracy_varied_most_fills_the_steps(make_pool, observed):
    part, pool = OneShot(watch=0.8), make_pool([[0, 1, 2, 3]], batch_size=2, steps=10)
    watched(part, pool, observed, [[1] * 4, [0, 0.5, 1, 0.5], [0, 0.25, 0, 0], [0] * 4])
    # The mean is 1/2, the squares of the distances are 1/4, 0, 1/4 and 0.
    assert part.variances().tolist() == pytest.approx([0, 0.125, 3 / 256, 0])
    assert part.plan(8).tolist() == part.plan(9).tolist() == [1, 1]
    few = OneShot(examples=2, watch=0.8)
    watched(few, pool, observed, [[1] * 4, [0, 0.5, 1, 0.5], [0, 0.25, 0, 0], [0] * 4])
    assert few.plan(8).tolist() == [1, 2]


def test_later_rewards_do_not_change_the_choice_and_state_restores_it(make_pool, observed):
    part, pool = OneShot(watch=0.8), make_pool([[0, 1, 2, 3]], batch_size=2, steps=10)
    watched(part, pool, observed, [[0.5] * 4, [0] * 4, [0, 1, 0, 1], [1] * 4])
    part.observe(np.array([2, 2]), observed([[0.5], [0.5]], step=8))
    assert part.plan(9).tolist() == [2, 2]
    again = OneShot(watch=0.8)
    again.begin(pool)
    again.load_state_dict(part.state_dict())
    assert again.plan(9).tolist() == [2, 2]


def test_without_watching_the_seed_chooses(make_pool):
    def chosen(seed):
        part = OneShot(examples=2, watch=0)
        part.begin(make_pool([list(range(20))], batch_size=5, seed=seed))
        assert part.plan(0).tolist() == part.plan(5).tolist()
        return part.plan(0).tolist()

    assert len(set(chosen(0))) == 2
    assert chosen(0) == chosen(0) != chosen(1)


def test_copies_of_a_prompt_are_answered_differently_and_the_first_as_if_alone():
    rollout = Free(max_new_tokens=6)
    one = toy_examples(1)
    alone = toy_speaker(rollout).complete(one, Turn(0, 4))
    both = toy_speaker(rollout).complete(one * 2, Turn(0, 4))
    width = alone.completions.ids.shape[1]
    assert torch.equal(both.completions.ids[:4, :width], alone.completions.ids)
    assert list(both.texts[:4]) != list(both.texts[4:])
    second = toy_speaker(rollout).complete(one * 2, Turn(0, 4), which=[1])
    assert list(second.texts) == list(both.texts[4:])


def test_it_is_checked_and_says_what_is_wrong():
    check_sampler(OneShot())
    with pytest.raises(ValueError, match="from 1 on"):
        OneShot(examples=0)
    with pytest.raises(ValueError, match="below 1"):
        OneShot(watch=1.0)
