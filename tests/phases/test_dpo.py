from __future__ import annotations

import copy
import dataclasses
import math

import pytest
import torch

from mllmrec.engine.batches import pad
from mllmrec.engine.plain import Plain
from mllmrec.engine.shared_prefix import SharedPrefix
from mllmrec.errors import UserError
from mllmrec.phases.base import Learner, OptimizerSettings
from mllmrec.phases.dpo import Dpo
from mllmrec.prompts.answer_tokens import AnswerTokens


@pytest.fixture
def batch(tiny, make_examples):
    examples = make_examples(tiny.builder)
    return [examples[index] for index in range(len(examples))]


@pytest.fixture
def make_dpo(tiny):
    """A DPO phase of the tiny policy unless another is given."""

    def make(
        policy=None,
        answers=None,
        learning_rate=1e-2,
        updates=1,
        begin=True,
        engine=None,
        micro_batch_size=8,
        **settings,
    ):
        policy = policy or tiny.policy
        if begin:
            policy.begin_phase("dpo")
        learner = Learner(policy, engine or SharedPrefix(), micro_batch_size)
        choices = {"negatives": 2, "beta": 0.5, **settings}
        return Dpo(learner, answers or tiny.answers, OptimizerSettings(learning_rate), updates, **choices)

    return make


@pytest.fixture
def titled(make_pretrained, make_builder, make_examples, make_dpo, shake):
    """A phase with adapters, away from its reference, whose answers are labels with titles; four examples."""
    policy, builder = make_pretrained(), make_builder("instruct", answer="id_title")
    answers = AnswerTokens(builder, policy.encode_answers, policy.end_token)
    policy.begin_phase("sft")
    shake(policy, "sft")
    policy.begin_phase("dpo")
    shake(policy, "dpo")
    examples = make_examples(builder)
    return lambda **settings: make_dpo(policy, answers, begin=False, **settings), [
        examples[index] for index in (0, 2, 3, 5)
    ]


def loss_and_gradient(stage, batch, sums=None):
    stage.model.zero_grad()
    preferences = stage.preferences(batch, 0)
    loss = 0.0
    for share in stage.loss_shares(
        preferences, stage.reference_logprobs(preferences), {} if sums is None else sums
    ):
        share.backward()
        loss += share.item()
    weights = [weight for weight in stage.model.parameters() if weight.requires_grad]
    return loss, torch.cat([weight.grad.flatten() for weight in weights])


def items_drawn(stage, example, step):
    return stage._items(example, step)


@pytest.mark.parametrize("whole", [True, False])
def test_a_first_update_has_no_rewards_and_the_loss_of_a_fair_draw(
    make_dpo, make_pretrained, tiny, batch, fit, whole
):
    policy = tiny.policy if whole else make_pretrained()
    logged: list[dict] = []
    answers = AnswerTokens(tiny.builder, policy.encode_answers, policy.end_token)
    stage = make_dpo(policy, answers)
    stage.log_step = logged.append
    fit(stage, [batch])
    assert logged[0]["loss"] == pytest.approx(math.log(3), rel=1e-6)
    for name in ("accuracies", "margins", "chosen", "rejected"):
        assert logged[0][f"rewards/{name}"] == 0
    assert logged[0]["grad_norm"] > 0
    assert logged[0]["learning_rate"] == 1e-2


def test_loss_is_over_whole_answers_against_the_stages_reference(titled, naive_logprobs):
    make, batch = titled
    stage = make()
    loss, _ = loss_and_gradient(stage, batch)
    terms = []
    for example in batch:
        answers = [stage.answers.of(item) for item in items_drawn(stage, example, 0)]
        arguments = (
            stage.policy.prompt_batch([example.prompt]),
            pad(answers, 0, side="right"),
            torch.zeros(3, dtype=torch.long),
        )
        with torch.no_grad(), stage.policy.reference() as reference:
            h = -naive_logprobs(reference, *arguments).sum(1)
        with torch.no_grad():
            h += naive_logprobs(stage.model, *arguments).sum(1)
        terms.append(-torch.log_softmax(0.5 * h, 0)[0])
    assert len({len(answer) for answer in answers}) > 1
    assert loss == pytest.approx(float(torch.stack(terms).mean()), rel=1e-5)
    assert abs(loss - math.log(3)) > 0.1


def test_micro_batches_and_engines_change_neither_loss_nor_gradient(titled):
    make, batch = titled
    expected, gradient = loss_and_gradient(make(), batch)
    assert gradient.norm() > 1e-2
    for settings in ({"micro_batch_size": 1}, {"micro_batch_size": 3}, {"engine": Plain()}):
        sums: dict[str, float] = {}
        loss, again = loss_and_gradient(make(**settings), batch, sums)
        assert loss == pytest.approx(expected, rel=1e-5)
        assert (again - gradient).norm() < 1e-5 * gradient.norm()
        assert sums["margins"] == pytest.approx(sums["chosen"] - sums["rejected"], abs=1e-4)


def test_negatives_are_other_candidates_drawn_by_seed_step_and_example_alone(make_dpo, batch):
    stage = make_dpo()
    drawn = [items_drawn(stage, example, 7) for example in batch]
    for example, (target, *others) in zip(batch, drawn, strict=True):
        assert target == example.target
        assert len(set(others)) == 2
        assert set(others) < set(example.candidates.tolist()) - {target}
    torch.rand(3)
    assert [items_drawn(stage, example, 7) for example in reversed(batch)] == drawn[::-1]
    assert [items_drawn(stage, example, 8) for example in batch] != drawn
    other = make_dpo(seed=1, begin=False)
    assert [items_drawn(other, example, 7) for example in batch] != drawn


def test_too_few_candidates_are_refused(make_dpo, batch):
    stage = make_dpo(negatives=3)
    assert len(stage.preferences(batch, 0).answers[0][0]) == 4
    short = dataclasses.replace(batch[0], candidates=batch[0].candidates[:3])
    with pytest.raises(
        UserError, match=rf"dpo.negatives=3, but the prompt of sample {short.sample_id} lists 2"
    ):
        stage.preferences([short], 0)


@pytest.mark.parametrize("negatives", [1, 3])
def test_training_learns_its_own_preferences(make_dpo, batch, fit, negatives):
    logged: list[dict] = []
    stage = make_dpo(negatives=negatives, updates=30)
    stage.log_step = logged.append
    fit(stage, [batch] * 30)
    first, last = logged[0], logged[-1]
    assert first["rewards/accuracies"] == 0
    assert last["rewards/accuracies"] == 1
    assert last["loss"] < 0.1 < first["loss"]
    assert last["rewards/margins"] == pytest.approx(
        last["rewards/chosen"] - last["rewards/rejected"], abs=1e-4
    )
    assert last["rewards/margins"] > 1


def test_runs_repeat_exactly_from_the_seed(make_dpo, tiny, batch, fit):
    found = []
    for seed in (0, 0, 1):
        policy = copy.deepcopy(tiny.policy)
        stage = make_dpo(policy, updates=3, seed=seed)
        fit(stage, [batch] * 3)
        found.append(torch.cat([weight.detach().flatten() for weight in stage.model.parameters()]))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
