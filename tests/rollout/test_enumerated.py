"""Rollouts that are all candidates' answers with their probabilities, compared with rollouts that are drawn."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch.testing import assert_close

from mllmrec.engine.batches import pad
from mllmrec.engine.plain import Plain
from mllmrec.engine.shared_prefix import SharedPrefix
from mllmrec.prompts.answer_tokens import AnswerTokens
from mllmrec.rl.advantages import GroupRelative, LeaveOneOut
from mllmrec.rl.kl import kl_estimate
from mllmrec.rl.parts import REFERENCE
from mllmrec.rollout.base import Spelling
from mllmrec.rollout.constrained import Constrained
from mllmrec.rollout.enumerated import Enumerated

END = 2
ENGINE = SharedPrefix()
PROMPTS = pad([[11, 12, 13, 14, 15], [21, 22]], 0, side="left")
SINGLE = [[[5, END], [6, END], [7, END], [8, END]], [[40, END], [41, END], [42, END], [43, END]]]
# Two to three decisions each; 9 after 5 7, and the last tokens, are forced.
SEVERAL = [
    [[5, 6, END], [5, 7, 9, END], [8, 6, END], [8, 10, END]],
    [[40, 41, 42, END], [40, 41, 43, 4, END], [40, 41, 43, 3, END], [44, END]],
]
REWARDS = torch.tensor([[1.0, 0.0, 0.0, -1.0], [0.0, 0.3, 1.0, 0.0]])
GROUPS = [64, 1024, 16384]


def all_answers(model, answers, engine=ENGINE, temperature=1.0):
    encoded = engine.encode(model, PROMPTS)
    return Enumerated(temperature).draw(engine, model, encoded, 7, [], Spelling(END, answers))


def texts(rollouts):
    return [ids[mask].tolist() for ids, mask in zip(*rollouts.tokens, strict=True)]


@pytest.fixture
def policy(make_pretrained, shake):
    """With a reference; no answer is too rare to be drawn."""
    policy = make_pretrained()
    with torch.no_grad():
        policy.model.lm_head.weight.mul_(0.3)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        policy.begin_phase("grpo")
    shake(policy, "grpo")
    return policy


@pytest.mark.parametrize("engine", [SharedPrefix(), Plain()])
@pytest.mark.parametrize("answers", [SINGLE, SEVERAL])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_every_answer_has_its_probability(policy, engine, answers, temperature):
    with torch.no_grad():
        rollouts = all_answers(policy.model, answers, engine, temperature)
    assert texts(rollouts) == answers[0] + answers[1]
    assert rollouts.prompt_of.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert rollouts.finished.all()
    weights = rollouts.weights.view(2, 4)
    assert_close(weights.sum(1), torch.ones(2))
    assert_close(weights.flatten(), rollouts.scores.logprobs.sum(1).exp())
    assert 0.01 < weights.min() < 0.2 < weights.max() < 0.9


def test_weights_are_no_part_of_the_graph(policy):
    rollouts = all_answers(policy.model, SEVERAL)
    assert rollouts.scores.logprobs.requires_grad
    assert not rollouts.weights.requires_grad


def test_prompts_must_have_as_many_answers(policy):
    with pytest.raises(ValueError, match="same number of candidates"):
        all_answers(policy.model, [SINGLE[0], SINGLE[1][:3]])


@pytest.fixture
def make_exact(policy, make_builder, make_step):
    """A step over all answers, unless ``rollout`` says otherwise."""
    builder = make_builder(answer="id")
    answers = AnswerTokens(builder, policy.encode_answers, policy.end_token)

    def make(**settings):
        own = {"rollout": Enumerated(), "group_size": 1, "micro_batch_size": 1 << 20}
        return make_step(policy, answers, builder, begin=False, **{**own, **settings})

    return make


@pytest.fixture
def judged(make_batch):
    """A group for each prompt, every answer with its own reward, and the reference if the loss needs one."""

    def make(step, answers, group=1, seed=0):
        generators = [torch.Generator().manual_seed(100 * seed + row) for row in range(2)]
        model = step.speaker.policy.model
        with torch.no_grad():
            encoded = ENGINE.encode(model, PROMPTS)
            drawn = step.collector.rollout.draw(
                ENGINE, model, encoded, group, generators, Spelling(END, answers)
            )
        ids = drawn.tokens.ids
        options = pad(answers[0] + answers[1], END, side="right").ids.view(2, 4, -1)[..., : ids.shape[1]]
        said = (ids.view(2, -1, 1, ids.shape[1]) == options[:, None]).all(3)
        assert (said.sum(2) == 1).all()
        batch = make_batch(
            (said * REWARDS[:, None]).sum(2),
            drawn.weights,
            prompts=PROMPTS,
            completions=drawn.tokens,
            learnt=drawn.decisions,
            choices=drawn.choices,
            finished=drawn.finished,
        )
        batch = dataclasses.replace(batch, advantages=step.advantage(batch))
        return step.collector.fill(batch, frozenset({REFERENCE})) if step.regularizers else batch

    return make


def trained(step):
    return [weight for weight in step.speaker.policy.model.parameters() if weight.requires_grad]


def step_gradient(step, batch, sums=None):
    step.speaker.policy.model.zero_grad()
    for share in step.loss_shares(batch, {} if sums is None else sums):
        share.backward()
    return torch.cat([weight.grad.flatten() for weight in trained(step)])


def gradient_of(step, value):
    return torch.cat([part.flatten() for part in torch.autograd.grad(value, trained(step))])


def relative_error(found, expected):
    return float((found - expected).norm() / expected.norm())


# With one decision per answer all aggregations agree. With several, only `constant` sums an answer's decisions to its
# log-probability. `sequence_mean` divides by the answer's number of decisions, and `token_mean` by a number that
# depends on the draws.
@pytest.mark.parametrize(("answers", "aggregation"), [(SINGLE, "token_mean"), (SEVERAL, "constant")])
@pytest.mark.parametrize(("beta", "kl"), [(0.0, "k3"), (2.0, "k3"), (2.0, "k2")])
def test_the_gradient_of_draws_converges(make_exact, judged, answers, aggregation, beta, kl):
    settings = {"aggregation": aggregation, "beta": beta, "kl": kl}
    step = make_exact(**settings)
    exact = step_gradient(step, judged(step, answers))
    sampled = make_exact(rollout=Constrained(), **settings)
    errors = []
    for group in GROUPS:
        found = [
            relative_error(step_gradient(sampled, judged(sampled, answers, group, s)), exact)
            for s in range(5)
        ]
        errors.append(sum(found) / 5)
    # Sixteen times the draws make a quarter of the error, so 1/16 from the first group size to the last.
    assert errors[0] > 2 * errors[1] > 4 * errors[2]
    assert errors[2] < 0.02


@pytest.mark.parametrize(
    ("advantage", "factor"),
    # A draw is part of its own group's mean, so 1 - 1/8 of its reward remains. Leave-one-out needs no correction.
    [(LeaveOneOut(), 1.0), (GroupRelative("none"), 7 / 8)],
)
def test_the_mean_gradient_of_small_groups(make_exact, judged, advantage, factor):
    settings = {"aggregation": "constant", "advantage": advantage}
    step = make_exact(**settings)
    exact = step_gradient(step, judged(step, SEVERAL))
    sampled = make_exact(rollout=Constrained(), **settings)
    batch = judged(sampled, SEVERAL, group=1 << 15)
    batch = dataclasses.replace(batch, group_of=torch.arange(len(batch)) // 8)
    found = step_gradient(sampled, dataclasses.replace(batch, advantages=sampled.advantage(batch)))
    assert relative_error(found, factor * exact) < 0.03
    assert relative_error(found, (15 / 8 - factor) * exact) > 0.1


@pytest.mark.parametrize("answers", [SINGLE, SEVERAL])
def test_without_the_deviation_it_ascends_the_expected_reward(make_exact, judged, answers):
    step = make_exact(aggregation="constant", advantage=GroupRelative("none"))
    batch = judged(step, answers)
    found = step_gradient(step, batch)
    probabilities = all_answers(step.speaker.policy.model, answers).scores.logprobs.sum(1).exp()
    expected_reward = (probabilities * REWARDS.flatten()).sum()
    longest = step.speaker.answers.longest
    assert relative_error(-found * 2 * longest, gradient_of(step, expected_reward)) < 1e-5


def test_a_hit_reward_is_weighted_by_the_odds(make_exact, judged):
    # One hit of probability p: the group's deviation is sqrt(p (1 - p)), so the gradient is sqrt(p / (1 - p)) grad log p.
    step = make_exact(aggregation="sequence_mean", advantage=GroupRelative(epsilon=0.0))
    batch = judged(step, SINGLE)
    batch = dataclasses.replace(batch, rewards=torch.tensor([0.0, 1.0, 0.0, 0.0] * 2))
    found = step_gradient(step, dataclasses.replace(batch, advantages=step.advantage(batch)))
    logprobs = all_answers(step.speaker.policy.model, SINGLE).scores.logprobs.sum(1)[[1, 5]]
    odds = (logprobs.exp() / (1 - logprobs.exp())).sqrt().detach()
    assert relative_error(-found * 2, gradient_of(step, (odds * logprobs).sum())) < 1e-5


def divergences(step, answers):
    """KL(policy || reference) and KL(reference || policy) over whole answers, summed over prompts."""
    logprobs = all_answers(step.speaker.policy.model, answers).scores.logprobs.sum(1)
    with torch.no_grad(), step.speaker.policy.reference() as model:
        reference = all_answers(model, answers).scores.logprobs.sum(1)
    forward = (logprobs.exp() * (logprobs - reference)).sum()
    return forward, (reference.exp() * (reference - logprobs)).sum()


@pytest.mark.parametrize("answers", [SINGLE, SEVERAL])
def test_divergence_over_candidates_is_exact(make_exact, judged, answers):
    step = make_exact(beta=1.0)
    batch = judged(step, answers)
    with torch.no_grad():
        scores = all_answers(step.speaker.policy.model, answers).scores.logprobs
    forward, _ = divergences(step, answers)
    assert forward > 0.01
    for kl in ("k1", "k3"):
        estimate = torch.where(batch.learnt, kl_estimate(scores, batch.reference, kl), 0.0)
        assert_close((batch.weights * estimate.sum(1)).sum(), forward.detach())


@pytest.mark.parametrize("kl", ["k1", "k2", "k3"])
def test_logged_divergence_is_exact_and_its_gradient_that_of_its_estimator(make_exact, judged, kl):
    step = make_exact(aggregation="sequence_mean", beta=1.0, kl=kl, skip_zero_variance="never")
    batch = dataclasses.replace(judged(step, SINGLE), advantages=torch.zeros(8))
    sums: dict[str, float] = {}
    found = step_gradient(step, batch, sums)
    forward, backward = divergences(step, SINGLE)
    assert sums["tokens"] == pytest.approx(2)  # one decision for each prompt, by weight
    if kl != "k2":
        assert sums["kl"] == pytest.approx(forward.item(), rel=1e-5)
    if kl == "k1":
        assert found.norm() < 1e-5 * gradient_of(step, forward).norm()
    else:
        assert relative_error(found * 2, gradient_of(step, forward if kl == "k2" else backward)) < 1e-5


@pytest.mark.parametrize("aggregation", ["token_mean", "sequence_mean", "constant"])
def test_micro_batches_change_nothing(make_exact, judged, aggregation):
    found = []
    for size in (8, 3, 1):
        step = make_exact(aggregation=aggregation, beta=1.0, micro_batch_size=size)
        found.append(step_gradient(step, judged(step, SEVERAL)))
    for other in found[1:]:
        assert relative_error(other, found[0]) < 1e-5
