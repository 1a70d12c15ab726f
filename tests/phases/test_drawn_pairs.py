from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from mllmrec.config.phase_rules import learnt_reasoning_is_said, lists_are_written
from mllmrec.engine.shared_prefix import SharedPrefix
from mllmrec.phases.base import Learner, OptimizerSettings
from mllmrec.phases.drawn_pairs import DrawnDpo, pairs_of
from mllmrec.phases.inputs import Drawn
from mllmrec.rl.preferences import softmax_dpo


@pytest.fixture
def examples(tiny, make_examples):
    return list(make_examples(tiny.builder))


@pytest.fixture
def drawn():
    def make(example, *answers):
        """(text, reward) of each answer to an example."""
        return [Drawn(dataclasses.replace(example, reasoned_answer=text), reward) for text, reward in answers]

    return make


def said(pairs):
    return [(pair.chosen.reasoned_answer, pair.rejected.reasoned_answer) for pair in pairs]


def test_the_best_answer_is_paired_with_the_worst(examples, drawn):
    found = [
        *drawn(examples[0], ("a", 1.0), ("b", 0.2), ("a", 1.0), ("c", -1.0), ("d", 1.5)),
        # Only good ones, and only bad ones.
        *drawn(examples[1], ("a", 1.0), ("b", 2.0)),
        *drawn(examples[2], ("a", 0.0)),
        *drawn(examples[3], ("a", 0.0), ("b", 0.5), ("c", 1.0)),
    ]
    pairs = pairs_of(found, 1.0)
    assert said(pairs) == [("d", "c"), ("a", "b"), ("c", "a")]
    assert {pair.chosen.prompt == pair.rejected.prompt for pair in pairs} == {True}
    assert said(pairs_of(found, 0.5))[-1] == ("c", "a")
    assert pairs_of(found, 3.0) == []


def test_the_loss_of_two_more_nats_between_the_answers():
    # log(1 + exp(-0.1 * 2))
    found = softmax_dpo(torch.tensor([[-1.0, -4.0]]), torch.tensor([[-2.0, -3.0]]), 0.1)
    assert found.terms.item() == pytest.approx(0.598139, abs=1e-6)


def test_a_policy_learns_to_prefer_the_good_answer(tiny, examples, drawn, fit):
    labels = [tiny.builder.label(item) for item in examples[0].candidates.tolist()]
    (pair,) = pairs_of(drawn(examples[0], (labels[2], 1.0), (labels[1], 0.0)), 1.0)
    tiny.policy.begin_phase("dpo")
    learner = Learner(tiny.policy, SharedPrefix(), 8)
    stage = DrawnDpo(
        learner, tiny.answers, OptimizerSettings(1e-2, schedule="constant"), 4, negatives=1, beta=0.5
    )
    logged: list[dict] = []
    stage.log_step = logged.append
    preferences = stage.preferences([pair], 0)
    answers = tiny.policy.encode_answers([labels[2], labels[1]])
    assert preferences.answers == [[[[*answer, tiny.policy.end_token] for answer in answers]]]
    fit(stage, [[pair]] * 4)
    assert logged[0]["loss"] == pytest.approx(math.log(2), rel=1e-5)
    assert logged[-1]["loss"] < 0.3
    assert logged[-1]["rewards/accuracies"] == 1.0


def test_drawn_answers_may_be_lists_or_reasoned():
    own = {"kind": "dpo", "answers_of": "grpo"}
    cfg = {
        "method": {"name": "x", "phases": [own]},
        "prompt": {"places": 3},
        "cot": {"placement": "completion"},
        "mix_ratio": 1.0,
        "candidates": {"num_negatives": 9},
        "eval": {"ranking": "constrained", "ks": [1, 3], "cot": "auto"},
        "dpo": {},
        "rollout": {"_target_": "mllmrec.rollout.free.Free"},
    }
    assert lists_are_written(cfg) is None
    assert learnt_reasoning_is_said(cfg) is None
    cfg["method"]["phases"] = ["dpo"]
    assert "learns single items" in lists_are_written(cfg)
    assert "learns answers without reasoning" in learnt_reasoning_is_said(cfg)
