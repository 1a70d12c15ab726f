"""Seeds, and a GRPO stage on the tiny policy."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from mllmrec.engine.shared_prefix import SharedPrefix
from mllmrec.rewards.hit_format import HitFormat
from mllmrec.rl.advantages import GroupRelative
from mllmrec.rl.losses import ClippedRatio
from mllmrec.rollout.constrained import Constrained
from mllmrec.stages.base import OptimizerSettings
from mllmrec.stages.grpo import Grpo


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    """Makes the random new adapters the same whichever tests ran before."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.fixture
def batch(tiny, make_examples):
    examples = make_examples(tiny.builder)
    return [examples[0], examples[3]]


@pytest.fixture
def make_grpo(tiny):
    """A GRPO stage; ``policy``, ``answers`` and ``builder`` of the tiny policy unless given."""

    def make(policy=None, answers=None, builder=None, learning_rate=1e-3, steps=1, begin=True, **settings):
        policy, builder = policy or tiny.policy, builder or tiny.builder
        if begin:
            policy.begin_stage("grpo")
        choices = {
            "engine": SharedPrefix(),
            "sampler": Constrained(),
            "reward": HitFormat(),
            "advantage": GroupRelative(),
            "policy_loss": ClippedRatio(),
            "group_size": 6,
            "micro_batch_size": 4,
            **settings,
        }
        return Grpo(
            policy,
            answers or tiny.answers,
            OptimizerSettings(learning_rate),
            steps,
            titles=builder.titles,
            item_ids=builder.ids,
            **choices,
        )

    return make
