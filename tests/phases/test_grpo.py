from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from mllmrec.engine.batches import pad
from mllmrec.engine.shared_prefix import SharedPrefix
from mllmrec.errors import UserError
from mllmrec.evaluation.ranking import candidate_scores
from mllmrec.phases.kept_rollouts import whole_groups
from mllmrec.prompts.answer_tokens import AnswerTokens
from mllmrec.rewards.hit_format import HitFormat
from mllmrec.rl.advantages import GroupRelative
from mllmrec.rl.batch import RolloutBatch
from mllmrec.rl.losses import OF_THE_STEP, ClippedRatio
from mllmrec.rl.parts import REFERENCE
from mllmrec.rl.regularizers import KlToReference
from mllmrec.rollout.base import Completions, PlainRollout
from mllmrec.rollout.constrained import Constrained
from mllmrec.rollout.enumerated import Enumerated
from mllmrec.rollout.free import Free
from mllmrec.step.reference import Frozen

ENGINE = SharedPrefix()


def loss_and_gradient(stage, batch, sums=None):
    stage.model.zero_grad()
    loss = 0.0
    for share in stage.step.loss_shares(batch, {} if sums is None else sums):
        share.backward()
        loss += share.item()
    weights = [weight for weight in stage.model.parameters() if weight.requires_grad]
    return loss, torch.cat([weight.grad.flatten() for weight in weights])


def with_reference(stage, batch):
    return stage.collector.fill(batch, frozenset({REFERENCE}))


def step_rewards(stage, batch, rewards):
    """Rollouts with rewards of our choice; in step 1 the first and fourth of each group differ."""
    rewards = torch.tensor(rewards).repeat(len(batch))
    judged = dataclasses.replace(stage.step.collect(batch, 1), rewards=rewards)
    return dataclasses.replace(judged, advantages=stage.step.advantage(judged))


MIXED = [1.0, 0.0, 0.0, -1.0, 0.0, 0.0]


@pytest.mark.parametrize("rollout", [Constrained(), Free(max_new_tokens=5)])
@pytest.mark.parametrize("aggregation", OF_THE_STEP)
def test_micro_batches_change_neither_loss_nor_gradient(make_grpo, batch, rollout, aggregation):
    found = []
    for size in (12, 1, 5):
        stage = make_grpo(
            rollout=rollout, aggregation=aggregation, micro_batch_size=size, beta=0.5, begin=size == 12
        )
        step = step_rewards(stage, batch, MIXED)
        generator = torch.Generator().manual_seed(0)
        old = torch.randn(step.learnt.shape, generator=generator) * 0.1 - 1
        step = dataclasses.replace(step, old=old, reference=old - 0.3)
        found.append(loss_and_gradient(stage, step))
    (loss, gradient), *others = found
    assert abs(loss) > 1e-3
    for again, its_gradient in others:
        assert again == pytest.approx(loss, rel=1e-4)
        assert (its_gradient - gradient).norm() < 1e-5 * gradient.norm()


def test_a_first_update_has_ratio_one_and_the_policy_gradient(make_grpo, batch):
    stage = make_grpo(aggregation="sequence_mean")
    step = step_rewards(stage, batch, MIXED)
    sums: dict[str, float] = {}
    loss, gradient = loss_and_gradient(stage, step, sums=sums)
    # One decision per completion: the loss is minus the mean advantage, which is 0 in every group.
    assert loss == pytest.approx(0, abs=1e-6)
    assert sums["clip_ratio/low_mean"] == sums["clip_ratio/high_mean"] == 0
    scores = stage.step.speaker.scores(stage.model, step, torch.arange(12)).logprobs.sum(1)
    stage.model.zero_grad()
    (-(step.advantages * scores).mean()).backward()
    expected = torch.cat([weight.grad.flatten() for weight in stage.model.parameters()])
    assert expected.norm() > 0
    assert (gradient - expected).norm() < 1e-5 * expected.norm()


def test_loss_is_minus_the_mean_advantage(make_grpo, batch):
    stage = make_grpo(aggregation="sequence_mean")
    step = dataclasses.replace(step_rewards(stage, batch, MIXED), advantages=torch.arange(12) * 1.0)
    assert loss_and_gradient(stage, step)[0] == pytest.approx(-5.5, rel=1e-6)


@pytest.mark.parametrize("reward", [0.3, -1.0, 1.0])
def test_a_group_without_variance_gives_no_gradient(make_grpo, batch, reward):
    stage = make_grpo(skip_zero_variance="never")
    _, gradient = loss_and_gradient(stage, step_rewards(stage, batch, [reward] * 6))
    assert (gradient == 0).all()


def test_a_policy_without_probabilities_is_a_message(make_grpo, batch):
    stage = make_grpo()
    with torch.no_grad():
        for weight in stage.model.parameters():
            weight.fill_(math.nan)
    with pytest.raises(
        UserError, match=r"grpo diverged at step 3: .*lower grpo\.learning_rate \(now 0\.001\)"
    ):
        stage.training_step(batch, 3)


def test_divergence_is_exactly_zero_at_the_start(
    make_grpo, make_pretrained, make_builder, make_examples, shake, lora
):
    policy, builder = (
        make_pretrained(lora={**lora, "dropout": 0.3}),
        make_builder("instruct", answer="id_title"),
    )
    answers = AnswerTokens(builder, policy.encode_answers, policy.end_token)
    policy.begin_phase("sft")
    shake(policy, "sft")
    policy.begin_phase("grpo", {"dropout": 0.0})
    stage = make_grpo(policy, answers, builder, begin=False, beta=1.0)
    stage.train()
    examples = make_examples(builder)
    step = with_reference(stage, stage.step.collect([examples[0], examples[3]], 0))
    sums: dict[str, float] = {}
    assert step.reference.abs().sum() > 0
    loss_and_gradient(stage, step, sums)
    assert sums["kl"] == 0


def test_divergence_of_whole_weights_is_exactly_zero_at_the_start(make_grpo, batch, fit):
    logged: list[dict] = []
    stage = make_grpo(beta=1.0, group_size=16, micro_batch_size=32)
    stage.log_step = logged.append
    fit(stage, [batch])
    assert logged[0]["kl"] == 0


def test_rollouts_depend_on_seed_and_step_alone(make_grpo, batch):
    stage = make_grpo(group_size=30)
    first = stage.step.collect(batch, 3).completions.ids
    before = torch.get_rng_state()
    torch.rand(5)
    assert torch.equal(stage.step.collect(batch, 3).completions.ids, first)
    torch.set_rng_state(before)
    assert not torch.equal(stage.step.collect(batch, 4).completions.ids, first)
    other = make_grpo(group_size=30, seed=1, begin=False)
    assert not torch.equal(other.step.collect(batch, 3).completions.ids, first)


def test_each_completion_is_judged_against_its_own_question(make_grpo, batch):
    stage = make_grpo(group_size=20)
    step = stage.step.collect(batch, 0)
    assert step.groups.size == 20
    for row, text in enumerate(step.texts):
        example = batch[row // 20]
        hit = text == f"[ITEM_{example.target}]"
        assert step.rewards[row] == float(hit)
        assert step.parts["hit"][row] == float(hit)
        assert int(text[6:-1]) in example.candidates
    assert 0 < step.rewards.mean() < 1
    assert stage.generated_tokens == 2 * 20 * 2  # a label and the end


class Says(PlainRollout):
    """Gives two completions to every prompt: the first candidate's label, and the same behind a padding token."""

    constrained, temperature, max_new_tokens = False, 1.0, 3

    def __init__(self, policy, answers):
        self.policy, self.answers = policy, answers

    def draw(self, engine, model, encoded, group_size, generators, spelling):
        end_token = spelling.end
        label = self.answers.of(0)[:-1]
        rows = [[*label, end_token], [self.policy.padding_token, *label, end_token]] * len(generators)
        completions = pad(rows, self.policy.padding_token, side="right")
        return Completions(
            tokens=completions,
            prompt_of=torch.arange(len(generators)).repeat_interleave(2),
            decisions=completions.mask,
            choices=None,
            finished=torch.ones(len(rows), dtype=torch.bool),
        )


def test_special_tokens_cost_the_reward_and_stand_in_the_rollouts(make_grpo, tiny, batch):
    stage = make_grpo(rollout=Says(tiny.policy, tiny.answers), group_size=2)
    example = dataclasses.replace(batch[0], target=0, candidates=np.array([0, 1]), target_column=0)
    step = stage.step.collect([example], 0)
    assert step.texts == ["[ITEM_0]", "<|pad|>[ITEM_0]"]
    assert step.rewards.tolist() == [1.0, -1.0]
    shown = whole_groups(step, 1)
    assert [(row.completion, row.reward) for row in shown] == [("[ITEM_0]", 1.0), ("<|pad|>[ITEM_0]", -1.0)]


def target_probability(tiny, example):
    with torch.no_grad():
        scores = candidate_scores(tiny.policy, tiny.answers, [example], constrained=True, engine=ENGINE)
    return math.exp(scores[0, example.target_column])


@pytest.mark.parametrize("beta", [0.0, 0.01])
def test_a_bandit_learns_its_arm(make_grpo, tiny, batch, fit, beta):
    example = dataclasses.replace(batch[0], candidates=np.array([2, batch[0].target, 1]), target_column=1)
    stage = make_grpo(learning_rate=3e-3, steps=40, group_size=16, micro_batch_size=16, beta=beta)
    before = target_probability(tiny, example)
    fit(stage, [[example]] * 40)
    assert before < 0.6
    assert target_probability(tiny, example) > 0.9


def test_a_large_beta_holds_the_policy_back(make_grpo, tiny, batch, fit):
    example = dataclasses.replace(batch[0], candidates=np.array([2, batch[0].target, 1]), target_column=1)
    before = target_probability(tiny, example)
    stage = make_grpo(learning_rate=3e-3, steps=40, group_size=16, micro_batch_size=16, beta=20.0)
    fit(stage, [[example]] * 40)
    assert abs(target_probability(tiny, example) - before) < 0.15


def test_several_updates_per_rollout_move_the_ratio(make_grpo, batch, fit):
    logged: list[dict] = []
    stage = make_grpo(learning_rate=3e-2, steps=1, iterations=4, beta=0.1)
    stage.log_step = logged.append
    trainer = fit(stage, [batch])
    assert trainer.global_step == len(logged) == 4
    clipped = [metrics["clip_ratio/low_mean"] + metrics["clip_ratio/high_mean"] for metrics in logged]
    assert clipped[0] == 0
    assert max(clipped[1:]) > 0
    assert logged[0]["kl"] == 0
    assert logged[1]["kl"] > 0


def test_metrics_say_what_happened(make_grpo, batch, fit):
    logged: list[dict] = []
    told: list[RolloutBatch] = []
    stage = make_grpo(
        rollout=Free(max_new_tokens=3),
        on_rollouts=told.append,
    )
    stage.log_step = logged.append
    fit(stage, [batch])
    (judged,) = told
    metrics = logged[0]
    assert (judged.step, len(judged.examples)) == (0, 2)
    lengths = judged.completions.mask.sum(1)
    assert metrics["completions/max_length"] == lengths.max() <= 3
    assert metrics["completions/clipped_ratio"] == pytest.approx(1 - judged.finished.float().mean())
    assert metrics["num_tokens"] == lengths.sum()
    # Random text names no item: every group is all invalid.
    assert metrics["reward"] == -1
    assert metrics["frac_reward_zero_std"] == 1
    assert metrics["rewards/format/mean"] == 0
    assert metrics["reward_without_cot"] == -1
    assert "reward_with_cot" not in metrics
    assert "kl" not in metrics


def test_metrics_of_enumerated_answers_are_expectations(make_grpo, tiny, batch, fit):
    logged: list[dict] = []
    stage = make_grpo(rollout=Enumerated(), micro_batch_size=8, group_size=1)
    stage.log_step = logged.append
    hits = [target_probability(tiny, example) for example in batch]
    fit(stage, [batch])
    # A reward of 1 with probability p and else 0: mean p, deviation sqrt(p (1 - p)).
    assert 0.02 < min(hits) < max(hits) < 0.98
    assert logged[0]["reward"] == pytest.approx(sum(hits) / 2, rel=1e-5)
    assert logged[0]["rewards/hit/mean"] == pytest.approx(sum(hits) / 2, rel=1e-5)
    assert logged[0]["reward_without_cot"] == pytest.approx(sum(hits) / 2, rel=1e-5)
    deviations = [math.sqrt(hit * (1 - hit)) for hit in hits]
    assert logged[0]["reward_std"] == pytest.approx(sum(deviations) / 2, rel=1e-5)
    assert logged[0]["rewards/format/mean"] == pytest.approx(1, rel=1e-5)
    assert logged[0]["frac_reward_zero_std"] == 0
    assert logged[0]["num_tokens"] == 0  # nothing was generated


@pytest.mark.parametrize("rollout", [Constrained(), Free(max_new_tokens=9)])
def test_the_constant_of_dr_grpo_is_the_same_in_every_step(make_grpo, batch, tiny, rollout):
    # The longest possible completion, not the longest of a step.
    stage = make_grpo(rollout=rollout, aggregation="constant", beta=0.0)
    step = dataclasses.replace(step_rewards(stage, batch, MIXED), advantages=torch.ones(12))
    longest = tiny.answers.longest if rollout.constrained else 9
    decisions = int(step.learnt.sum())
    assert loss_and_gradient(stage, step)[0] == pytest.approx(-decisions / (12 * longest), rel=1e-5)
    cut = step.learnt.shape[1] if rollout.constrained else 2
    short = dataclasses.replace(
        step,
        completions=type(step.completions)(*(part[:, :cut] for part in step.completions)),
        learnt=step.learnt[:, :cut],
    )
    fewer = int(short.learnt.sum())
    found, _ = loss_and_gradient(stage, short)
    assert found == pytest.approx(-fewer / (12 * longest), rel=1e-5)


def test_adapters_learn_through_titles(make_grpo, make_pretrained, make_builder, make_examples, fit, shake):
    policy, builder = make_pretrained(), make_builder("instruct", answer="id_title")
    answers = AnswerTokens(builder, policy.encode_answers, policy.end_token)
    policy.begin_phase("sft")
    shake(policy, "sft")
    policy.begin_phase("grpo", {"alpha": 16})
    example = make_examples(builder)[1]  # the policy finds this target unlikely
    stage = make_grpo(
        policy, answers, builder, learning_rate=1e-2, steps=12, begin=False, beta=0.01, group_size=16
    )
    sft = {name: w.clone() for name, w in policy.model.named_parameters() if ".sft." in name}

    def probability():
        with torch.no_grad():
            scores = candidate_scores(policy, answers, [example], constrained=True, engine=ENGINE)
        return math.exp(scores[0, example.target_column])

    before = probability()
    fit(stage, [[example]] * 12)
    assert probability() > before + 0.2
    now = dict(policy.model.named_parameters())
    assert sft
    assert all(torch.equal(now[name], weight) for name, weight in sft.items())


def test_every_part_has_its_numbers_logged_after_each_update(make_grpo, batch, fit):
    class Counted:
        """Counts its calls."""

        calls = 0

        def __call__(self, *given):
            self.calls += 1
            return super().__call__(*given)

        def metrics(self):
            return {type(self).__name__.lower(): float(self.calls)}

    class OwnReward(Counted, HitFormat):
        pass

    class OwnAdvantage(Counted, GroupRelative):
        pass

    class OwnLoss(Counted, ClippedRatio):
        pass

    class OwnTerm(Counted, KlToReference):
        pass

    logged: list[dict] = []
    stage = make_grpo(
        reward=OwnReward(),
        advantage=OwnAdvantage(),
        loss=OwnLoss(),
        regularizers=[OwnTerm(0.1)],
        reference=Frozen(),
        micro_batch_size=12,
        iterations=2,
    )
    stage.log_step = logged.append
    fit(stage, [batch])
    counts = [
        [numbers[name] for name in ("ownreward", "ownadvantage", "ownloss", "ownterm")] for numbers in logged
    ]
    assert counts == [[1, 1, 1, 1], [1, 1, 2, 2]]


def test_a_phase_ends_once_its_rollouts_have_generated_enough(make_grpo, fit, batch):
    grpo = make_grpo(steps=5, group_size=2, most_tokens=5)
    fit(grpo, [batch] * 5)
    # Two prompts with two answers of two tokens each: 8 in the first step.
    assert (grpo.generated_tokens, grpo.trainer.global_step) == (8, 1)
