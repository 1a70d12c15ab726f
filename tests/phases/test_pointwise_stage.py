from __future__ import annotations

import copy

import pytest
import torch

from mllmrec.engine.plain import Plain
from mllmrec.engine.shared_prefix import SharedPrefix
from mllmrec.evaluation.pointwise import yes_scores
from mllmrec.phases.base import Learner, OptimizerSettings
from mllmrec.phases.negatives import target_and_negatives
from mllmrec.phases.pointwise import Pointwise
from mllmrec.prompts.questions import Questions, load_question_wording


@pytest.fixture
def batch(tiny, make_examples):
    examples = make_examples(tiny.builder)
    return [examples[index] for index in range(len(examples))]


@pytest.fixture
def make_stage(tiny):
    def make(policy=None, updates=1, begin=True, engine=None, micro_batch_size=64, **settings):
        policy = policy or tiny.policy
        if begin:
            policy.begin_phase("pointwise")
        questions = Questions(tiny.builder, load_question_wording("compact"), 3)
        learner = Learner(policy, engine or SharedPrefix(), micro_batch_size)
        choices = {"negatives": 2, **settings}
        return Pointwise(learner, questions, OptimizerSettings(1e-2), updates, **choices)

    return make


def loss_and_gradient(stage, batch):
    stage.model.zero_grad()
    loss = 0.0
    for share in stage.loss_shares(batch, 4):
        share.backward()
        loss += share.item()
    return loss, torch.cat([weight.grad.flatten() for weight in stage.model.parameters()])


def test_the_target_is_answered_with_yes_and_others_with_no(make_stage, tiny, batch):
    stage = make_stage()
    loss, _ = loss_and_gradient(stage, batch[:2])
    total, tokens = 0.0, 0
    for example in batch[:2]:
        items = target_and_negatives(example, 2, seed=0, stage="pointwise", step=4)
        for item, answer in zip(items, ("Yes", "No", "No"), strict=True):
            (prompt,) = tiny.policy.encode_prompts([stage.questions.prompt(example.history.tolist(), item)])
            (said,) = tiny.policy.encode_answers([answer])
            ids = torch.tensor([[*prompt, *said, tiny.policy.end_token]])
            with torch.no_grad():
                logprobs = torch.log_softmax(tiny.policy.model(input_ids=ids).logits[0], -1)
            places = range(len(prompt), ids.shape[1])
            total -= sum(float(logprobs[place - 1, ids[0, place]]) for place in places)
            tokens += len(places)
    assert loss == pytest.approx(total / tokens, rel=1e-5)


def test_micro_batches_and_engines_change_neither_loss_nor_gradient(make_stage, batch):
    loss, gradient = loss_and_gradient(make_stage(), batch)
    for settings in ({"micro_batch_size": 1}, {"micro_batch_size": 5}, {"engine": Plain()}):
        again, its_gradient = loss_and_gradient(make_stage(begin=False, **settings), batch)
        assert again == pytest.approx(loss, rel=1e-5)
        assert (its_gradient - gradient).norm() < 1e-5 * gradient.norm()


def test_training_puts_the_targets_first_and_repeats_from_the_seed(make_stage, tiny, batch, fit):
    found = []
    for seed in (0, 0, 1):
        policy = copy.deepcopy(tiny.policy)
        stage = make_stage(policy, updates=60, negatives=3, seed=seed)
        fit(stage, [batch] * 60)
        found.append(torch.cat([weight.detach().flatten() for weight in policy.model.parameters()]))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
    with torch.no_grad():
        scores = yes_scores(policy, stage.learner.engine, stage.questions, batch)
    assert [int(own.argmax()) for own in scores] == [example.target_column for example in batch]
