"""Seeds, and a GRPO phase on the tiny policy."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from mllmrec.phases.base import OptimizerSettings
from mllmrec.phases.grpo import Grpo


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    """Makes the random new adapters the same whichever tests ran before."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.fixture
def recorded(monkeypatch):
    """Gives a list that receives everything a rollout draws from now on."""

    def record(rollout):
        drawn, draw = [], rollout.draw

        def recording(*given):
            drawn.append(draw(*given))
            return drawn[-1]

        monkeypatch.setattr(rollout, "draw", recording)
        return drawn

    return record


@pytest.fixture
def make_grpo(make_step):
    """A GRPO phase around such a step."""

    def make(
        *policy_answers_builder, learning_rate=1e-3, steps=1, on_rollouts=None, most_tokens=None, **settings
    ):
        step = make_step(*policy_answers_builder, **settings)
        return Grpo(step, OptimizerSettings(learning_rate), steps, on_rollouts, most_tokens=most_tokens)

    return make
