from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from mllmrec.phases.base import OptimizerSettings
from mllmrec.phases.grpo import Grpo
from mllmrec.rewards.base import Reward, Rewards
from mllmrec.rl.losses import ClippedRatio, LossInputs
from mllmrec.rl.ratio_losses import Sapo
from mllmrec.rollout.base import Turn
from mllmrec.rollout.constrained import Constrained
from mllmrec.step.diagnostics import LearntTokens, effective_share, token_diagnostics
from mllmrec.step.reference import Frozen
from mllmrec.step.refill import Dynamic, Refill
from mllmrec.variants.rapo_prune import Pruned


def test_one_heavy_completion_of_two_leaves_less_than_two(make_batch):
    # Ratios 3 and 1: (3 + 1)² / (2 · (9 + 1)) = 0.8. The ratio is the product over learnt tokens.
    old = torch.zeros(2, 2)
    now = torch.tensor([[torch.log(torch.tensor(1.5)), torch.log(torch.tensor(2.0))], [0.0, 5.0]])
    learnt = torch.tensor([[True, True], [True, False]])
    batch = replace(make_batch(torch.zeros(1, 2)), old=old, learnt=learnt)
    both = torch.tensor([0, 1])
    assert effective_share(batch, now, both) == {"effective_sample_size": pytest.approx(0.8)}
    assert effective_share(batch, old, both) == {"effective_sample_size": 1.0}
    assert effective_share(batch, now, both[:1]) == {"effective_sample_size": pytest.approx(1.0)}
    assert effective_share(batch, now, both[:0]) == {}
    # Rows that are all answers count by their probabilities: (2.25 + 0.25)² / (0.75 · 9 + 0.25).
    weighted = replace(batch, weights=torch.tensor([0.75, 0.25]))
    assert effective_share(weighted, now, both)["effective_sample_size"] == pytest.approx(6.25 / 7)


def test_a_clip_counts_once_and_a_loss_without_one_has_none():
    inputs = LossInputs(
        logprobs=torch.log(torch.tensor([[1.3, 0.7, 1.0]])),
        old=torch.zeros(1, 3),
        advantages=torch.tensor([[1.0, -1.0, 1.0]]),
        mask=torch.ones(1, 3, dtype=torch.bool),
        entropy=torch.tensor([[0.5, 0.25, 0.0]]),
        reference=torch.log(torch.tensor([[1.3, 0.35, 2.0]])),
    )
    found = token_diagnostics(inputs, ClippedRatio()(inputs).metrics)
    assert found["clip_ratio/region_mean"].tolist() == [[True, True, False]]
    assert not token_diagnostics(inputs, Sapo()(inputs).metrics)["clip_ratio/region_mean"].any()
    assert found["entropy"] is inputs.entropy
    # With d = log of 1, 2 and 1/2: exp(-d) + d - 1.
    assert found["kl"][0].tolist() == pytest.approx([0, 0.1931, 0.3069], abs=1e-4)
    assert "kl" not in token_diagnostics(replace(inputs, reference=None), {})


def test_tokens_generated_for_each_that_is_learnt():
    tokens = LearntTokens(SimpleNamespace(generated_tokens=30))
    assert tokens.metrics() == {"num_tokens_learnt": 0.0}
    tokens.add(8)
    tokens.add(4)
    assert tokens.metrics() == {"num_tokens_learnt": 12.0, "tokens_per_learnt": 2.5}


class ByPlace(Reward):
    """Answers of a group earn 0, 0.1, 0.2 and so on, so that every group teaches."""

    parts = ()
    bounds = (0.0, 1.0)

    def __call__(self, batch):
        places = torch.arange(len(batch)) - torch.searchsorted(batch.group_of, batch.group_of)
        return Rewards(places / 10)


@pytest.fixture
def logged(fit, batch):
    """What a phase of two steps logs."""

    def train(step, sampler=None):
        stage = Grpo(step, OptimizerSettings(3e-2, schedule="constant"), 2, sampler=sampler)
        rows: list[dict] = []
        stage.log_step = rows.append
        fit(stage, [batch] * 2)
        return rows

    return train


NAMES = {
    "frac_reward_zero_std",
    "clip_ratio/region_mean",
    "entropy",
    "effective_sample_size",
    "num_tokens",
    "num_tokens_learnt",
    "tokens_per_learnt",
}


def test_every_loss_logs_the_same_names_and_the_ratios_spread(make_step, logged):
    for loss in (ClippedRatio(), Sapo()):
        rows = logged(make_step(loss=loss, reward=ByPlace(), iterations=2))
        assert all(row.keys() >= NAMES for row in rows)
        assert "kl" not in rows[0]
        assert rows[0]["effective_sample_size"] == 1.0
        assert 0 < rows[1]["effective_sample_size"] < 1.0
        # Six answers to each of two prompts: a label and its end, of which the label was decided.
        assert [row["num_tokens"] for row in rows] == [24, 24, 48, 48]
        assert [row["num_tokens_learnt"] for row in rows] == [12, 12, 24, 24]
        assert {row["tokens_per_learnt"] for row in rows} == {2.0}


@pytest.mark.parametrize(("log_kl", "estimator"), [(True, None), (False, "k1")])
def test_the_kl_is_logged_alike_whether_or_not_it_is_in_the_loss(make_step, logged, log_kl, estimator):
    if estimator is None:
        step = make_step(reward=ByPlace(), reference=Frozen())
        step.settings = replace(step.settings, log_kl=log_kl)
    else:
        step = make_step(reward=ByPlace(), beta=1e-6, kl=estimator)
    first, second = (row["kl"] for row in logged(step))
    assert first == 0
    # k3 is positive; k1 of answers that became less likely would not be.
    assert second > 0


class Counted(Constrained):
    """Says how many prompts its last draw had."""

    def draw(self, engine, model, encoded, group_size, generators, spelling):
        self.prompts = len(generators)
        return super().draw(engine, model, encoded, group_size, generators, spelling)

    def metrics(self):
        return {"prompts": float(self.prompts), "twice": 2.0 * self.prompts}


def test_a_refilled_step_logs_what_all_its_draws_were_like(make_collector, make_examples, tiny):
    examples = list(make_examples(tiny.builder))
    supply = [[examples[4]], [examples[5]]]
    # No answers are ever worth learning.
    refill = Refill(Dynamic(least_std=9.0, rounds=3), lambda count: supply.pop(0))
    collector = make_collector(rollout=Counted(), refill=refill)
    drawn = collector.collect(examples[:4], Turn(0, 6))
    found = collector.metrics()
    # Four prompts that say 4, and two that say 1.
    assert (found["prompts"], found["twice"]) == (3.0, 6.0)
    assert found["refill/asked"] == 6
    equal = [
        make_collector()
        .collect([one], Turn(0, 6))
        .groups.all_equal(make_collector().collect([one], Turn(0, 6)).judged())
        for one in examples
    ]
    assert found["frac_reward_zero_std"] == pytest.approx(torch.cat(equal).float().mean().item())
    assert len(drawn.examples) == 4
    # Another step begins anew.
    supply[:] = [[], []]
    collector.collect(examples[:2], Turn(1, 6))
    assert collector.metrics()["prompts"] == 2.0


def test_a_sampler_logs_its_numbers(make_step, logged):
    sampler = Pruned()
    sampler.begin(SimpleNamespace(size=2))
    sampler._left[0] = False
    assert [row["sampler/left"] for row in logged(make_step(), sampler)] == [0.5, 0.5]
