from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch

from mllmrec.engine.batches import TokenBatch
from mllmrec.engine.plain import Plain
from mllmrec.engine.shared_prefix import SharedPrefix
from mllmrec.errors import UserError
from mllmrec.evaluation.ranking import candidate_scores
from mllmrec.phases.base import Learner, OptimizerSettings
from mllmrec.phases.expert_iteration import ExpertIteration, RoundSettings, updates_of
from mllmrec.phases.sft import Sft
from mllmrec.prompts.answer_tokens import AnswerTokens
from mllmrec.rewards.hit_format import HitFormat
from mllmrec.rollout.enumerated import Enumerated
from mllmrec.rollout.free import Free
from mllmrec.rollout.lists import Listed
from mllmrec.rollout.reasoned import Reasoned

ENGINE = SharedPrefix()
NUMBERS = [number.name for number in dataclasses.fields(RoundSettings)]


@pytest.fixture
def examples(tiny, make_examples):
    examples = make_examples(tiny.builder)
    return [examples[index] for index in range(len(examples))]


@pytest.fixture
def make_stage(tiny, make_collector):
    def make(policy=None, answers=None, learning_rate=1e-2, updates=1, begin=True, **settings):
        policy = policy or tiny.policy
        if begin:
            policy.begin_phase("expert_iteration", keep_reference=False)
        numbers = {
            "group_size": 6,
            "micro_batch_size": 64,
            "batch_size": 8,
            "threshold": 1.0,
            **{name: settings.pop(name) for name in NUMBERS if name in settings},
        }
        return ExpertIteration(
            make_collector(policy, answers, engine=settings.pop("engine", ENGINE), **settings),
            OptimizerSettings(learning_rate),
            updates,
            RoundSettings(**numbers),
        )

    return make


def weights_of(model):
    return torch.cat([weight.detach().flatten() for weight in model.parameters()])


@pytest.fixture
def rewarded_by_hand(make_batch):
    """Two prompts, 7 8 and 9; two completions of each."""

    def make(rewards, answers, finished=None, weights=None):
        rows = torch.tensor(answers)
        return make_batch(
            torch.tensor(rewards).view(2, 2),
            weights,
            prompts=TokenBatch(torch.tensor([[7, 8], [0, 9]]), torch.tensor([[True, True], [False, True]])),
            completions=TokenBatch(rows, rows > 0),
            learnt=rows > 0,
            finished=torch.tensor(finished or [True] * 4),
        )

    return make


def kept_by(stage, rewarded):
    return [[(one.prompt, one.answer, one.weight) for one in answers] for answers in stage.keep(rewarded)]


def test_answers_are_kept_from_the_threshold_on(make_stage, rewarded_by_hand):
    rewarded = rewarded_by_hand([0.9, 1.0, 2.0, -1.0], [[4, 2], [5, 2], [6, 2], [3, 2]])
    assert kept_by(make_stage(), rewarded) == [[([7, 8], [5, 2], 1.0)], [([9], [6, 2], 1.0)]]


def test_equal_answers_of_a_prompt_are_learnt_once_or_as_often_as_drawn(make_stage, rewarded_by_hand):
    rewarded = rewarded_by_hand([1.0] * 4, [[4, 0], [4, 0], [4, 0], [4, 2]])
    once = [[([7, 8], [4], 1.0)], [([9], [4], 1.0), ([9], [4, 2], 1.0)]]
    assert kept_by(make_stage(), rewarded) == once
    often = [[([7, 8], [4], 2.0)], [([9], [4], 1.0), ([9], [4, 2], 1.0)]]
    assert kept_by(make_stage(repeats="all", begin=False), rewarded) == often


def test_answers_that_were_cut_off_are_not_kept(make_stage, rewarded_by_hand):
    rewarded = rewarded_by_hand([1.0] * 4, [[4, 2], [5, 6], [6, 2], [3, 7]], [True, False, True, False])
    assert kept_by(make_stage(), rewarded) == [[([7, 8], [4, 2], 1.0)], [([9], [6, 2], 1.0)]]


def test_every_answer_counts_with_its_probability(make_stage, rewarded_by_hand):
    weights = torch.tensor([0.25, 0.75, 0.5, 0.5])
    rewarded = rewarded_by_hand([1.0, 0.0, 0.0, 1.0], [[4, 2], [5, 2], [6, 2], [3, 2]], weights=weights)
    found = kept_by(make_stage(rollout=Enumerated(), repeats="all"), rewarded)
    assert found == [[([7, 8], [4, 2], 0.25)], [([9], [3, 2], 0.5)]]


@pytest.mark.parametrize("repeats", ["once", "all"])
def test_with_a_policy_that_is_always_right_it_is_sft(make_stage, tiny, examples, fit, repeats):
    # Only the target's answer is possible, so every draw is right.
    certain = [
        dataclasses.replace(example, candidates=np.array([example.target]), target_column=0)
        for example in examples
    ]
    logged: dict[str, list[dict]] = {"sft": [], "expert_iteration": []}
    policies = [copy.deepcopy(tiny.policy), copy.deepcopy(tiny.policy)]
    policies[0].begin_phase("sft")
    settings = OptimizerSettings(1e-2, schedule="linear")
    sft = Sft(Learner(policies[0], ENGINE, micro_batch_size=64), tiny.answers, settings, 6)
    # A round of six prompts and a batch size of 2 makes three updates.
    stage = make_stage(policies[1], updates=6, batch_size=2, repeats=repeats)
    for one in (sft, stage):
        one.log_step = logged[one.name].append
    fit(sft, [certain[:2], certain[2:4], certain[4:]] * 2)
    assert fit(stage, [certain] * 2).global_step == 6
    before, expected, found = map(weights_of, (tiny.policy.model, sft.model, stage.model))
    assert (expected - before).norm() > 0.1
    assert (found - expected).norm() < 1e-6 * expected.norm()
    first = logged["expert_iteration"][0]
    assert first["entropy"] > 0
    # Six prompts with a label and its end to learn, and six answers to each were drawn.
    assert (first["num_tokens_learnt"], first["tokens_per_learnt"]) == (12.0, 6.0)
    assert first["loss"] == pytest.approx(sum(step["loss"] for step in logged["sft"][:3]) / 3, rel=1e-6)
    assert first["learning_rate"] == pytest.approx(1e-2 * (6 + 5 + 4) / 18)
    assert first["reward"] == first["kept/answers"] == first["kept/prompts"] == 1
    assert first["num_tokens"] == 6 * 6 * 2  # prompts x answers, each a label and the end


def test_where_nothing_is_kept_nothing_is_learnt(make_stage, tiny, examples, fit):
    logged: list[dict] = []
    before = weights_of(tiny.policy.model)
    stage = make_stage()
    stage.log_step = logged.append
    hopeless = [
        dataclasses.replace(example, candidates=example.candidates[example.candidates != example.target])
        for example in examples
    ]
    fit(stage, [hopeless])
    assert torch.equal(weights_of(tiny.policy.model), before)
    for name in ("kept/answers", "kept/prompts", "loss", "reward"):
        assert logged[0][name] == 0


def test_a_threshold_that_no_reward_reaches_is_refused(make_stage):
    make_stage(threshold=2.0, reward=HitFormat(hit_weight=2.0))
    with pytest.raises(UserError, match=r"expert_iteration\.threshold=1\.5 exceeds the highest reward, 1\.0"):
        make_stage(threshold=1.5, begin=False)


def test_all_answers_by_probability_give_the_gradient_of_the_hit_rate(make_stage, tiny, examples):
    stage = make_stage(rollout=Enumerated(), repeats="all")
    kept = [one for answers in stage.keep(stage.collect(examples, 0)) for one in answers]
    with torch.no_grad():
        scores = candidate_scores(tiny.policy, tiny.answers, examples, constrained=True, engine=ENGINE)
    hits = [np.exp(scores[row, example.target_column]) for row, example in enumerate(examples)]
    assert [one.answer for one in kept] == [tiny.answers.of(example.target) for example in examples]
    assert [one.weight for one in kept] == pytest.approx(hits, rel=1e-5)
    # The loss of all answers is the weighted mean of their single losses, since all have two tokens.
    alone = [float(sum(stage.loss_shares([one])).detach()) for one in kept]
    together = float(sum(stage.loss_shares(kept)).detach())
    assert together == pytest.approx(np.average(alone, weights=hits), rel=1e-5)
    assert together != pytest.approx(np.mean(alone), rel=1e-3)


def loss_and_gradient(stage, kept):
    stage.model.zero_grad()
    loss = 0.0
    for share in stage.loss_shares(kept):
        share.backward()
        loss += share.item()
    return loss, torch.cat([weight.grad.flatten() for weight in stage.model.parameters()])


def test_micro_batches_and_engines_change_neither_answers_nor_loss(make_stage, examples):
    found = []
    # 6 answers of 6 prompts: all at once, prompt by prompt, two prompts at a time.
    for number, settings in enumerate(
        ({}, {"micro_batch_size": 1}, {"micro_batch_size": 12}, {"engine": Plain()})
    ):
        stage = make_stage(begin=number == 0, repeats="all", **settings)
        kept = [one for example in examples for one in stage.keep(stage.collect([example], 3))[0]]
        assert [one for answers in stage.keep(stage.collect(examples, 3)) for one in answers] == kept
        found.append((kept, *loss_and_gradient(stage, kept)))
    (kept, loss, gradient), *others = found
    assert len({one.weight for one in kept}) > 1
    for same, again, its_gradient in others:
        assert same == kept
        assert again == pytest.approx(loss, rel=1e-5)
        assert (its_gradient - gradient).norm() < 1e-5 * gradient.norm()


def test_how_a_round_is_cut_changes_nothing(make_stage, tiny, examples, fit):
    found = []
    for size in (64, 6):  # all prompts' answers at once, and one prompt's
        logged: list[dict] = []
        stage = make_stage(copy.deepcopy(tiny.policy), updates=3, batch_size=2, micro_batch_size=size)
        stage.log_step = logged.append
        fit(stage, [examples])
        found.append((logged[0], weights_of(stage.model)))
    (metrics, weights), (others, again) = found
    assert (again - weights).norm() < 1e-5 * weights.norm()
    assert others == pytest.approx(metrics, rel=1e-4)


def test_a_round_is_answered_by_the_policy_that_it_begins_with(make_stage, examples, fit):
    stage = make_stage(learning_rate=0.1, updates=3, batch_size=2)
    expected = stage.collect(examples, 0).rewards
    logged: list[dict] = []
    stage.log_step = logged.append
    fit(stage, [examples])
    after = stage.collect(examples, 0).rewards
    assert logged[0]["reward"] == pytest.approx(expected.mean().item())
    assert not torch.equal(after, expected)


def test_rounds_learn_their_prompts(make_stage, examples, fit):
    logged: list[dict] = []
    stage = make_stage(updates=20, learning_rate=3e-3)
    stage.log_step = logged.append
    fit(stage, [examples] * 20)
    assert logged[0]["reward"] < 0.7
    assert logged[-1]["reward"] > 0.95
    assert logged[-1]["kept/prompts"] == 1


def test_free_answers_are_learnt_as_they_were_said(make_stage, examples):
    stage = make_stage(rollout=Free(max_new_tokens=3), threshold=-1.0, group_size=40)
    kept = [one for answers in stage.keep(stage.collect(examples, 0)) for one in answers]
    ends = stage.policy.end_token
    assert 0 < len(kept) < 40 * len(examples)
    assert all(one.answer[-1] == ends and ends not in one.answer[:-1] for one in kept)


def test_runs_repeat_exactly_from_the_seed(make_stage, tiny, examples, fit):
    found = []
    for seed in (0, 0, 1):
        stage = make_stage(copy.deepcopy(tiny.policy), updates=3, group_size=2, seed=seed)
        fit(stage, [examples] * 3)
        found.append(weights_of(stage.model))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_updates_are_counted_round_by_round():
    # Rounds of 5, 5 and 2 prompts, two in an update: 3 + 3 + 1.
    assert updates_of([range(5), range(5), range(2)], 2) == 7


def test_answers_are_drawn_without_dropout(
    make_stage, make_pretrained, recorded, tiny, examples, lora, shake
):
    policy = make_pretrained(lora={**lora, "dropout": 0.5})
    policy.begin_phase("expert_iteration")
    shake(policy, "expert_iteration")
    answers = AnswerTokens(tiny.builder, policy.encode_answers, policy.end_token)
    stage = make_stage(policy, answers, begin=False).train()
    drawn = recorded(stage.collector.rollout)
    for _ in range(2):
        stage.collect(examples, 0)
    assert torch.equal(drawn[0].scores.logprobs, drawn[1].scores.logprobs)
    assert stage.model.training


@torch.no_grad()
def test_kept_answers_may_compete_with_the_other_candidates_alone(make_stage, tiny, examples):
    stage = make_stage(loss_on="candidates", rollout=Enumerated())
    rewarded = stage.collect(examples, 0)
    kept = [one for answers in stage.keep(rewarded, stage._competing(examples)) for one in answers]
    scores = candidate_scores(tiny.policy, tiny.answers, examples, constrained=True, engine=ENGINE)
    # Labels are one token, so every answer is one choice.
    expected = [-scores[row, example.target_column] for row, example in enumerate(examples)]
    assert float(sum(stage.loss_shares(kept))) == pytest.approx(np.mean(expected), rel=1e-5)


@pytest.mark.parametrize("rollout", [Free(), Reasoned(), Listed()])
def test_more_than_an_answer_does_not_compete_with_candidates(make_stage, rollout):
    with pytest.raises(UserError, match="loss_on=candidates with rollouts that say more"):
        make_stage(loss_on="candidates", rollout=rollout)
