from __future__ import annotations

import numpy as np
import pytest

from mllmrec.cot.mixing import Mixing, Mixture
from mllmrec.data.base import Interactions
from mllmrec.data.splits import Samples
from mllmrec.step.sampler import Pool
from mllmrec.variants.bundles import Bundles


def pool(size, batch_size, steps, seed=0):
    # One user of `size` items; the history of sample i has i items. Entries count backwards.
    interactions = Interactions(np.array(["u"]), np.array([0, size]), np.arange(size, dtype=np.int32))
    samples = Samples(interactions, np.zeros(size, dtype=np.int32), np.arange(size))
    return Pool(size, batch_size, steps, seed, "grpo", samples, lambda entries: size - 1 - entries)


def planned(part, given):
    part.begin(given)
    return [part.plan(step).tolist() for step in range(given.steps)]


def test_bundles_are_of_one_segment_and_a_pass_shows_everyone_once():
    steps = planned(Bundles(bundle=2, segments=3), pool(12, 4, 6))
    for pass_ in (steps[:3], steps[3:]):
        shown = [entry for step in pass_ for entry in step]
        assert sorted(shown) == list(range(12))
        # Long histories are entries 0 to 3, short ones 8 to 11.
        assert all(first // 4 == second // 4 for first, second in zip(shown[::2], shown[1::2], strict=True))
    assert steps[:3] != steps[3:]


def test_steps_hold_whole_bundles_and_the_rest_comes_last():
    steps = planned(Bundles(bundle=3, segments=2), pool(11, 8, 2))
    # Two bundles of three fit into 8; three bundles and a rest of two make 11.
    assert [len(step) for step in steps] == [6, 5]
    # A step that is smaller than a bundle is as large as it can be.
    assert [len(step) for step in planned(Bundles(bundle=5), pool(6, 2, 3))] == [2, 2, 2]


def test_the_seed_decides():
    once, again, other = (planned(Bundles(bundle=2), pool(12, 4, 3, seed)) for seed in (0, 0, 1))
    assert once == again != other


def test_entries_name_their_samples_in_both_forms():
    mixture = Mixture(Mixing("augment"), 4, np.array([3, 1]))
    assert mixture.sample(np.array([0, 3, 4, 5])).tolist() == [0, 3, 3, 1]


def test_numbers_below_one_are_refused():
    with pytest.raises(ValueError, match="from 1 on"):
        Bundles(bundle=0)
