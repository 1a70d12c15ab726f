from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from omegaconf import OmegaConf

from mllmrec.config.kinds import GRPO, SFT
from mllmrec.config.phases import Phase
from mllmrec.cot.mixing import Mixing, Mixture
from mllmrec.errors import UserError
from mllmrec.phases.inputs import PhaseInputs, of_rewards, plan_of
from mllmrec.testing import toy_batch


def test_a_later_phase_learns_what_the_policy_said_to_the_examples_own_prompts():
    batch = toy_batch(["[ITEM_1]", "[ITEM_1] Red Lamp", "[ITEM_2]", "[ITEM_1]"], rewards=[1.0, 1.0, 0.0, 1.0])
    batch = replace(batch, sources=("policy", "hinted", "policy", "policy"))
    job = SimpleNamespace(drawn={})
    inputs = PhaseInputs(Phase("first", GRPO), job, cfg=None, remembers=True)
    inputs.remember(batch)
    assert [one.example.reasoned_answer for one in job.drawn["first"]] == ["[ITEM_1]", "[ITEM_2]", "[ITEM_1]"]
    # Each answer once.
    assert [one.reasoned_answer for one in of_rewards(job.drawn["first"], 1.0)] == ["[ITEM_1]"]


def test_reasoning_that_was_drawn_takes_the_place_of_the_sample_s_own():
    batch = toy_batch(["<think>\nred\n</think>\n[ITEM_1]", "[ITEM_1]"], rewards=[1.0, 1.0], group_of=[0, 1])
    batch = replace(batch, examples=[replace(one, reasoning="blue") for one in batch.examples])
    job = SimpleNamespace(drawn={})
    PhaseInputs(Phase("first", GRPO), job, cfg=None, remembers=True).remember(batch)
    assert [one.example.reasoning for one in job.drawn["first"]] == ["red", ""]


class Train:
    samples = None

    def __len__(self):
        return 10


def shown(share, form="augment", count=10):
    """The samples that a phase shows in one pass over its share of ten, three of which stand there in two forms."""
    cfg = OmegaConf.create({"seed": 0, "sft": {"epochs": 1, "max_steps": None}})
    prepared = SimpleNamespace(
        mixture=Mixture(Mixing(form=form), count, np.array([2, 5, 7])),
        train=Train(),
    )
    plan = plan_of(cfg, prepared, Phase("sft", SFT, {"samples": share}), batch_size=4)
    codes = [code for step in plan for code in step]
    return sorted(code % count for code in codes)


@pytest.mark.parametrize(("form", "entries"), [("augment", 13), ("replace", 10)])
def test_shares_of_the_samples_have_no_sample_in_common(form, entries):
    first, second = shown([0.0, 0.5], form), shown([0.5, 1.0], form)
    assert len(set(first)) == len(set(second)) == 5
    assert set(first).isdisjoint(second)
    assert len(first) + len(second) == entries


def test_a_share_without_a_sample_is_refused():
    with pytest.raises(UserError, match=r"samples=\[0\.0, 0\.01\] of 10 training samples are none"):
        shown([0.0, 0.01])
