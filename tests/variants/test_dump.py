from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from mllmrec.rl.advantages import GroupRelative
from mllmrec.testing import check_sampler
from mllmrec.variants.dump import Ucb, softmax, upper_bounds
from mllmrec.variants.traits import segments, traits_of


def test_bounds_and_probabilities_of_arms():
    bounds = upper_bounds(np.array([0.5, 0.1, 0.3]), np.array([100, 100, 10]))
    assert bounds.tolist() == pytest.approx([0.8255, 0.4255, 1.2864], abs=1e-4)
    assert softmax(bounds, 0.1).tolist() == pytest.approx([0.0099, 0.0002, 0.9900], abs=1e-4)


@pytest.mark.parametrize(("right", "size"), [(1, 0.6187), (4, 0.9354), (7, 0.6187), (0, 0.0)])
def test_standardised_advantages_hardly_tell_difficulties_apart(observed, right, size):
    batch = observed([[1.0] * right + [0.0] * (8 - right)])
    # Divided by the deviation plus 1e-4.
    assert float(GroupRelative()(batch).abs().mean()) == pytest.approx(size, abs=3e-4)
    share = right / 8
    centred = batch.groups.centred(batch.rewards).abs().mean()
    assert float(centred) == pytest.approx(2 * share * (1 - share))


def test_traits_of_targets_and_histories(make_pool):
    # Item 0 occurs four times, item 1 twice, items 2 and 3 once.
    traits = traits_of(make_pool([[0, 1, 0], [0, 2, 1, 0, 3]]))
    assert traits.history.tolist() == [0, 1, 2, 0, 1, 2, 3, 4]
    assert traits.popularity.tolist() == [4, 2, 4, 4, 1, 2, 4, 1]
    assert traits.repeat.tolist() == [False, False, True, False, False, False, True, False]
    assert segments(np.array([5, 1, 1, 9, 7, 1]), 3).tolist() == [1, 0, 0, 2, 2, 0]


def test_an_arm_with_large_advantages_fills_the_steps(make_pool, observed):
    part = Ucb(history=2, popularity=1, temperature=0.02)
    # Histories of 0 to 9 items: five entries in each arm.
    pool = make_pool([list(range(10))], batch_size=4, steps=40)
    part.begin(pool)
    for _ in range(40):
        part.observe(np.array([0, 1, 5, 6]), observed([[0.0, 0.0]] * 2 + [[1.0, 0.0]] * 2))
    # 80 draws of each: 0.5 against 0 is 25 temperatures.
    assert part.probabilities()[1] > 0.99
    assert len(set(part.plan(40).tolist())) == 4
    assert (part.plan(40) >= 5).all()
    again = Ucb(history=2, popularity=1, temperature=0.02)
    again.begin(pool)
    again.load_state_dict(part.state_dict())
    assert again.probabilities().tolist() == part.probabilities().tolist()
    assert again.plan(41).tolist() == part.plan(41).tolist()


def test_the_window_forgets_and_signals_differ(make_pool, observed):
    part = Ucb(history=1, popularity=1, window=2)
    part.begin(make_pool([[0, 1, 2]]))
    batch = observed([[0.0, 0.0, 1.0, 0.0]])
    part.observe(np.array([1]), replace(batch, advantages=torch.tensor([1.0, 2.0, -3.0, 5.0])))
    # Of four values the last two count.
    assert part.state_dict()["seen"] == [[3.0, 5.0]]
    assert part.state_dict()["drawn"].tolist() == [1]
    part.signal = "centred"
    part.observe(np.array([1]), replace(batch, advantages=torch.tensor([1.0, 2.0, -3.0, 5.0])))
    assert part.state_dict()["seen"] == [[0.75, 0.25]]
    part.signal = "advantages"
    wide = torch.ones_like(batch.learnt, dtype=torch.float) * torch.tensor([1.0, 2.0, 3.0, -4.0])[:, None]
    part.observe(np.array([1]), replace(batch, advantages=wide))
    assert part.state_dict()["seen"] == [[3.0, 4.0]]


def test_it_is_checked_and_says_what_is_wrong():
    check_sampler(Ucb())
    with pytest.raises(ValueError, match="from 1 on"):
        Ucb(window=0)
    with pytest.raises(ValueError, match="temperature"):
        Ucb(temperature=0)
