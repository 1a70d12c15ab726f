from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from mllmrec.rl.parts import OLD
from mllmrec.testing import check_sampler
from mllmrec.variants.lifecycle import Lifecycle, spread


def test_differences_within_pairs():
    ties, graded = np.array([1.0, 0, 0, 1]), np.array([0.1, 0.4, 0.7, 1.0])
    assert spread(ties, "arithmetic") == pytest.approx(0.6667, abs=1e-4)
    # Two pairs of six are equal: (1e-6) ** (2 / 6).
    assert spread(ties, "geometric") == pytest.approx(0.01, abs=1e-4)
    assert spread(graded, "arithmetic") == pytest.approx(0.5)
    assert spread(graded, "geometric") == pytest.approx(0.4539, abs=1e-4)
    assert spread(np.array([1.0]), "geometric") == 0


def test_prompts_that_do_not_teach_leave_and_the_best_are_halved(make_pool, observed):
    part, again = Lifecycle(), Lifecycle()
    pool = make_pool([[0, 1, 2]], batch_size=3)
    part.begin(pool)
    # Nothing, a half and rewards far apart: 0, 2/3 and 8/3 within pairs.
    rewards = [[1.0, 1.0, 1.0, 1.0], [1.0, 0.0, 0.0, 1.0], [4.0, 0.0, 0.0, 4.0]]
    for step in range(5):
        assert set(part.plan(step).tolist()) == {0, 1, 2}
        part.observe(np.array([0, 1, 2]), observed(rewards))
    # 0.5 * 0.8 ** 5 is 0.164; the second has moved from 0.5 to near 0.61.
    utility = part.state_dict()["utility"].tolist()
    assert utility[:2] == pytest.approx([0.16384, 2 / 3 - (2 / 3 - 0.5) * 0.8**5])
    assert part.weights().tolist() == [0, 1, 0.5]
    assert set(part.plan(5).tolist()) == {1, 2}
    again.begin(pool)
    again.load_state_dict(part.state_dict())
    assert again.plan(6).tolist() == part.plan(6).tolist()


def test_if_all_are_removed_all_come_back(make_pool, observed):
    part = Lifecycle(start=0.2)
    part.begin(make_pool([[0, 1]], batch_size=2))
    part.observe(np.array([0, 1]), observed([[1.0, 1.0], [0.0, 0.0]]))
    assert part.weights().tolist() == [0, 0]
    assert sorted(part.plan(1).tolist()) == [0, 1]


def test_log_probabilities_are_a_factor_if_asked_for(make_pool, observed):
    part = Lifecycle(mean="geometric", logprobs=True, keep=0, remove=0, start=0)
    assert OLD in part.needs
    assert OLD not in Lifecycle().needs
    part.begin(make_pool([[0]], batch_size=1))
    batch = observed([[0.25, 0.75]])
    # Means over the learnt tokens: -1 and -3.
    old = torch.where(batch.learnt, torch.tensor([[-1.0], [-3.0]]), 9.0)
    part.observe(np.array([0]), replace(batch, old=old))
    assert part.state_dict()["utility"].tolist() == pytest.approx([0.5 * 2], abs=1e-5)


def test_it_is_checked_and_says_what_is_wrong():
    check_sampler(Lifecycle())
    check_sampler(Lifecycle(logprobs=True))
    with pytest.raises(ValueError, match="keep"):
        Lifecycle(keep=1)
    with pytest.raises(ValueError, match="remove"):
        Lifecycle(remove=0.6)
