from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

from mllmrec.config.kinds import GRPO
from mllmrec.config.phases import Phase
from mllmrec.phases.inputs import PhaseInputs, of_rewards
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
