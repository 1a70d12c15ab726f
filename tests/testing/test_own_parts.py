"""Every part that this repository ships passes the checks that it offers to authors."""

from __future__ import annotations

import numpy as np
import pytest

from mllmrec.config import CONFIG_DIR
from mllmrec.config.compose import compose_checked
from mllmrec.step.sampler import PromptSampler, Shuffled
from mllmrec.testing import check_sampler
from mllmrec.testing.trials import trial_faults

GROUPS = ("reward", "rollout", "advantage", "loss", "sampler", "reference", "variant")
FILES = [
    f"{group}={path.stem}" for group in GROUPS for path in sorted((CONFIG_DIR / group).glob("[!_]*.yaml"))
]


@pytest.mark.parametrize("override", FILES)
def test_a_shipped_part_passes_its_check(override):
    # The rollout of a reward of lists, and the like, belong to variants; a part must pass by itself.
    composed = compose_checked("train", [override], CONFIG_DIR)
    assert composed.faults == []
    assert trial_faults({key: composed.config[key] for key in composed.config if key != "hydra"}) == []


class Outside(PromptSampler):
    def plan(self, step):
        return np.array([step, 12])


class Empty(PromptSampler):
    def plan(self, step):
        return np.array([], dtype=int)


class Chance(Shuffled):
    def plan(self, step):
        return np.random.default_rng().permutation(12)[:4]


@pytest.mark.parametrize(
    ("part", "words"),
    [
        (Outside, "and the pool has entries 0 to 11"),
        (Empty, "has 0 of at most 4 entries"),
        (Chance, "the same seed and rollouts give other plans"),
        (int, "it is a int (0), not a PromptSampler"),
    ],
)
def test_a_sampler_that_plans_wrongly_is_named(part, words):
    with pytest.raises(AssertionError) as raised:
        check_sampler(part())
    assert words in str(raised.value)
    check_sampler(Shuffled())
