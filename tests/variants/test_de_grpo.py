"""DE-GRPO's advantages, by hand; its lifecycle of prompts has tests of its own."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from mllmrec.config import CONFIG_DIR, check_config
from mllmrec.config.compose import compose_checked
from mllmrec.testing import check_advantage, toy_batch
from mllmrec.testing.trials import trial_faults
from mllmrec.variants.de_grpo import MarginScaled, margins_of


def batch_of(*groups, weights=None):
    flat = [reward for group in groups for reward in group]
    group_of = [place for place, group in enumerate(groups) for _ in group]
    return toy_batch(["a"] * len(flat), rewards=flat, group_of=group_of, weights=weights)


def test_the_margin_is_the_mean_distance_of_pairs():
    # 1, 0, 0, 1: four of six pairs differ. 0.1, 0.4, 0.7, 1: three of 0.3, two of 0.6, one of 0.9 make 3 / 6.
    batch = batch_of([1.0, 0, 0, 1], [0.1, 0.4, 0.7, 1.0], [0.3])
    assert_close(margins_of(batch.rewards, batch.groups), torch.tensor([2 / 3, 0.5, 0.0]))
    # 1 with a probability of 0.2: two draws differ with one of 2 · 0.2 · 0.8.
    weighted = batch_of([1.0, 0, 0], weights=[0.2, 0.5, 0.3])
    assert_close(margins_of(weighted.rewards, weighted.groups), torch.tensor([0.32]))


def test_advantages_are_grpos_times_tanh_of_the_margin():
    # tanh(2/3) = 0.582783, times 0.5 / (0.577350 + 1e-4) = 0.865875.
    part = MarginScaled()
    assert_close(
        part(batch_of([1.0, 0, 0, 1])), torch.tensor([0.5046, -0.5046, -0.5046, 0.5046]), atol=1e-4, rtol=0
    )
    assert part.metrics() == pytest.approx({"de_grpo/margin": 2 / 3, "de_grpo/factor": 0.582783}, abs=1e-6)


def test_a_prompt_that_is_as_it_was_teaches_less():
    part, batch = MarginScaled("running", rate=0.5, scale="none"), batch_of([1.0, 0, 0, 1])
    # The value is 0, then 1/3, then 1/2: surprises of 2/3, 1/3 and 1/6.
    for surprise in (2 / 3, 1 / 3, 1 / 6):
        assert part(batch)[0].item() == pytest.approx(0.5 * torch.tensor(surprise).tanh().item())
    again = MarginScaled("running", rate=0.5, scale="none")
    again.load_state_dict(part.state_dict())
    # The margin of one right answer of four is 1/2, below the value of 7/12.
    assert not again(batch_of([1.0, 0, 0, 0])).any()


@pytest.mark.parametrize("value", ["zero", "running"])
@pytest.mark.parametrize("weighted", [True, False])
def test_it_is_an_advantage(value, weighted):
    check_advantage(MarginScaled(value), weighted=weighted)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"value": "head"}, "zero, running"),
        ({"rate": 0.0}, "rate=0"),
        ({"scale": "std"}, "group, batch, none"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        MarginScaled(**settings)


def test_the_variant_is_whole():
    composed = compose_checked("train", ["variant=de_grpo"], CONFIG_DIR)
    assert composed.faults == []
    check_config(composed.config, trial_faults)
    assert composed.config.sampler._target_.endswith("Lifecycle")
