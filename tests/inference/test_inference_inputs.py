"""What an inference part is given: draws of the kind of answer that the ranking is about."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf

from mllmrec.inference.base import InferenceInputs, described, inference_of
from mllmrec.inference.plain import PlainRanking
from mllmrec.rollout.constrained import Constrained
from mllmrec.rollout.free import Free
from mllmrec.rollout.lists import Listed
from mllmrec.rollout.reasoned import Reasoned


@pytest.mark.parametrize(
    ("ranking", "places", "expected"),
    [
        ("likelihood", 1, Constrained),
        ("constrained", 1, Constrained),
        ("constrained", 3, Listed),
        ("generate", 3, Free),
        ("generate", 1, Free),
        ("reasoned", 1, Reasoned),
    ],
)
def test_answers_are_drawn_as_they_are_ranked(ranking, places, expected):
    settings = OmegaConf.create({"ranking": ranking, "max_new_tokens": 7, "max_reasoning_tokens": 9})
    protocol = SimpleNamespace(
        settings=settings, prepared=SimpleNamespace(builder=SimpleNamespace(places=places))
    )
    drawn = InferenceInputs(OmegaConf.create(), protocol, None, None, None).rollout(0.5)
    assert (type(drawn), drawn.temperature) == (expected, 0.5)
    assert not drawn.every_answer
    assert getattr(drawn, "max_reasoning_tokens", 9) == 9
    assert drawn.max_new_tokens in (7, None)


def test_a_run_that_names_no_part_ranks_plainly_and_says_nothing_of_it():
    assert isinstance(inference_of({}), PlainRanking)
    assert described(None) == described({"_target_": "mllmrec.inference.plain.PlainRanking"}) == {}


def test_a_part_is_described_with_its_settings():
    section = {"_target_": "ourlab.votes.Votes", "n": 8, "judge": {"_target_": "ourlab.votes.Judge"}}
    assert described(section) == {"inference": "Votes(n=8, judge=Judge)"}
