"""Rankers of the tiny policy by drawn answers, with as much of a protocol as they read."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf

from mllmrec.engine.shared_prefix import SharedPrefix
from mllmrec.evaluation.ranking import Likelihood, Ranker
from mllmrec.inference.base import Inference, InferenceInputs

ENGINE = SharedPrefix()


@pytest.fixture
def make_inputs(tiny) -> Callable[..., InferenceInputs]:
    def make(ranking: str = "likelihood", **settings) -> InferenceInputs:
        given = {"max_new_tokens": 6, "max_reasoning_tokens": 5, **settings}
        protocol = SimpleNamespace(
            settings=OmegaConf.create({"ranking": ranking, **given}),
            seed=0,
            prepared=SimpleNamespace(builder=tiny.builder),
            ranker=lambda *parts: Likelihood(*parts, seed=0),
        )
        return InferenceInputs(OmegaConf.create(), protocol, tiny.policy, tiny.answers, ENGINE)

    return make


@pytest.fixture
def make_ranker(make_inputs) -> Callable[..., Ranker]:
    def make(part: Inference, ranking: str = "likelihood") -> Ranker:
        return part.ranker(make_inputs(ranking))

    return make
