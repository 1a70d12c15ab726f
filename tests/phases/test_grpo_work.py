"""What a GRPO step computes only once, or skips, without changing the result."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from torch.testing import assert_close

from mllmrec.engine.plain import Plain
from mllmrec.engine.shared_prefix import SharedPrefix
from mllmrec.prompts.answer_tokens import AnswerTokens
from mllmrec.rewards.hit_format import HitFormat
from mllmrec.rl.losses import OF_THE_STEP, ClippedRatio
from mllmrec.rollout.constrained import Constrained
from mllmrec.rollout.enumerated import Enumerated
from mllmrec.rollout.free import Free

ROLLOUTS = [Constrained(), Free(max_new_tokens=5), Enumerated(), Constrained(temperature=0.8)]


@pytest.fixture
def titled(make_pretrained, make_builder, make_examples, make_grpo, shake):
    """A phase with adapters whose answers are labels with titles, and two examples."""
    policy, builder = make_pretrained(), make_builder("instruct", answer="id_title")
    answers = AnswerTokens(builder, policy.encode_answers, policy.end_token)
    policy.begin_phase("sft")
    shake(policy, "sft")
    policy.begin_phase("grpo")
    shake(policy, "grpo")
    examples = make_examples(builder)

    def make(**settings):
        return make_grpo(policy, answers, builder, begin=False, **{"micro_batch_size": 12, **settings})

    return make, [examples[0], examples[3]]


def roll_out(stage, batch, step=1):
    """A judged step with rewards that differ in every group."""
    judged = stage.step.collect(batch, step)
    return with_rewards(stage, judged, torch.arange(len(judged)) % 3 * 1.0)


def with_rewards(stage, judged, rewards):
    """The step with (R,) rewards of our choice."""
    judged = dataclasses.replace(judged, rewards=rewards)
    return dataclasses.replace(judged, advantages=stage.step.advantage(judged))


def loss_and_gradient(stage, judged):
    """Of the step's update, which computes the reference if the loss needs one."""
    stage.model.zero_grad()

    def update(shares):
        loss = 0.0
        for share in shares:
            share.backward()
            loss += share.item()
        return {"loss": loss}

    (numbers,) = stage.step.updates(judged, update)
    weights = [weight for weight in stage.model.parameters() if weight.requires_grad]
    return numbers["loss"], torch.cat([weight.grad.flatten() for weight in weights])


def anew(judged):
    """The step without the rollout's own pass."""
    return dataclasses.replace(judged, known=None)


def relative_error(found, expected):
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("beta", [0.0, 0.5])
@pytest.mark.parametrize("rollout", ROLLOUTS)
def test_the_rollouts_pass_serves_the_update(titled, rollout, beta):
    make, batch = titled
    stage = make(rollout=rollout, beta=beta)
    judged = roll_out(stage, batch)
    assert judged.known is not None
    loss, gradient = loss_and_gradient(stage, judged)
    again, expected = loss_and_gradient(stage, anew(judged))
    assert loss == pytest.approx(again, abs=1e-6)
    assert expected.norm() > 1e-2
    assert relative_error(gradient, expected) < 1e-5


def test_the_rollouts_pass_is_not_kept_where_it_is_not_valid(titled, recorded):
    make, batch = titled
    for stage in (
        make(engine=Plain()),
        make(micro_batch_size=11),
        make(micro_batch_size=7, rollout=Enumerated()),
    ):
        drawn = recorded(stage.step.speaker.plain)
        assert roll_out(stage, batch).known is None
        assert not drawn[0].scores.logprobs.requires_grad
        assert stage.model.training
    # 2 prompts, 4 answers
    assert roll_out(make(micro_batch_size=8, rollout=Enumerated()), batch).known is not None
    with torch.no_grad():
        assert roll_out(make(), batch).known is None


def test_dropout_draws_anew(titled):
    make, batch = titled
    stage = make()
    assert roll_out(stage, batch).known is not None
    stage.step.speaker.policy.begin_phase("more", {"dropout": 0.1})
    stage = make()
    assert roll_out(stage, batch).known is None
    assert stage.model.training


class Counting(SharedPrefix):
    """Counts passes and the tokens that run."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.encoded, self.tokens = 0, 0
        self.scored: list[tuple[bool, int]] = []  # whether gradients were on, and rows
        layers = [module for name, module in model.named_modules() if name.endswith("layers.0.mlp")]
        layers[0].register_forward_pre_hook(self._count)

    def _count(self, module, inputs):
        self.tokens += inputs[0].shape[:-1].numel()

    def encode(self, model, prompts):
        self.encoded += 1
        return super().encode(model, prompts)

    def score(self, model, encoded, completions, *others, **settings):
        self.scored.append((torch.is_grad_enabled(), len(completions.ids)))
        return super().score(model, encoded, completions, *others, **settings)


@pytest.mark.parametrize(
    ("skip", "beta", "rows"),
    [
        ("never", 0.0, 12),
        ("auto", 0.0, 6),
        ("always", 0.0, 6),
        ("never", 0.5, 12),
        ("auto", 0.5, 12),
        ("always", 0.5, 6),
    ],
)
def test_groups_without_variance_are_skipped(titled, skip, beta, rows):
    make, batch = titled
    engine = Counting(make().model)
    stage = make(engine=engine, micro_batch_size=4, skip_zero_variance=skip, beta=beta)
    judged = with_rewards(stage, stage.step.collect(batch, 1), torch.tensor([1.0, 0, 0, 1, 0, 0] + [0.3] * 6))
    engine.scored.clear()
    engine.tokens = 0
    loss, gradient = loss_and_gradient(stage, judged)
    parts = [4, 4, 4] if rows == 12 else [4, 2]
    assert engine.scored == [(False, part) for part in parts if beta] + [(True, part) for part in parts]
    ran = engine.tokens
    whole = make(engine=engine, micro_batch_size=4, skip_zero_variance="never", beta=beta)
    engine.tokens = 0
    again, expected = loss_and_gradient(whole, judged)
    assert expected.norm() > 1e-2
    if rows == 12:
        assert ran == engine.tokens
        assert torch.equal(gradient, expected)
        return
    assert ran < 0.7 * engine.tokens
    if beta == 0:
        assert loss == pytest.approx(again, abs=1e-7)
        assert relative_error(gradient, expected) < 1e-6
    else:  # the skipped group's divergence is lost
        assert relative_error(gradient, expected) > 1e-2


@pytest.mark.parametrize("aggregation", OF_THE_STEP)
def test_dropped_groups_count_nowhere(titled, aggregation):
    # DAPO's means cover only groups with differing rewards, as if the other prompt had not been drawn.
    make, batch = titled
    settings = {"aggregation": aggregation, "beta": 0.5, "micro_batch_size": 5}
    rewards = torch.tensor([1.0, 0, 0, 1, 0, 0] + [0.3] * 6)
    found = []
    for skip, rows in (("drop", 2), ("never", 1), ("always", 2)):
        stage = make(skip_zero_variance=skip, **settings)
        judged = with_rewards(stage, stage.step.collect(batch[:rows], 1), rewards[: 6 * rows])
        found.append(loss_and_gradient(stage, judged))
    (loss, gradient), (alone, expected), (counted, _) = found
    assert expected.norm() > 1e-2
    assert loss == pytest.approx(alone, abs=1e-6)
    assert relative_error(gradient, expected) < 1e-5
    # If the group is left out but still counted, it halves the loss (roughly, where answers differ in length).
    assert counted == pytest.approx(alone / 2, rel=0.4)


class Constant(HitFormat):
    """Pays the same for every answer."""

    def judge(self, completion, question):
        return {"reward": 0.3, "format": 1.0, "hit": 0.0}


def test_a_step_of_dropped_groups_alone_has_no_loss(titled, fit):
    make, batch = titled
    logged: list[dict] = []
    stage = make(skip_zero_variance="drop", reward=Constant())
    stage.log_step = logged.append
    fit(stage, [batch])
    assert logged[0]["loss"] == logged[0]["grad_norm"] == 0
    assert logged[0]["frac_reward_zero_std"] == 1


@pytest.mark.parametrize("rollout", [Constrained(), Free(max_new_tokens=3)])
def test_a_step_runs_no_more_than_it_needs(titled, fit, rollout):
    make, batch = titled
    constrained = rollout.constrained
    for beta, size in ((0.0, 12), (0.0, 6), (0.1, 12), (0.1, 6)):
        engine = Counting(make().model)
        # Whole tokens of random text name no item, so that free groups have no variance.
        stage = make(
            engine=engine, rollout=rollout, beta=beta, micro_batch_size=size, skip_zero_variance="never"
        )
        fit(stage, [batch])
        updates = [(True, 12)] if size == 12 else [(True, 6), (True, 6)]
        reference = [(False, rows) for _, rows in updates] if beta else []
        if not constrained:
            drawing = []
        elif size == 12:
            drawing, updates = [(True, 8)], []  # all four answers of both prompts serve the update as well
        else:
            drawing = [(False, 8)]
        assert engine.scored == drawing + reference + updates
        kept = size == 12
        assert engine.encoded == 1 + len(reference) + (0 if kept else len(updates))


class Remembering(ClippedRatio):
    """Keeps what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.given: list[tuple[torch.Tensor, torch.Tensor]] = []

    def __call__(self, inputs):
        self.given.append((inputs.logprobs.detach().clone(), inputs.old.clone()))
        return super().__call__(inputs)


@pytest.mark.parametrize("rollout", [Constrained(), Free(max_new_tokens=5)])
@pytest.mark.parametrize("size", [12, 6])
def test_old_logprobs_are_those_of_the_first_pass(titled, fit, rollout, size):
    make, batch = titled
    loss = Remembering()
    settings = {
        "micro_batch_size": size,
        "iterations": 3,
        "learning_rate": 1e-2,
        "skip_zero_variance": "never",
    }
    # With a divergence the weights move even where a group has no variance.
    fit(make(rollout=rollout, loss=loss, beta=1.0, **settings), [batch])
    parts = 12 // size
    first, *others = (loss.given[start : start + parts] for start in range(0, len(loss.given), parts))
    assert len(others) == 2
    for part, (logprobs, old) in enumerate(first):
        assert torch.equal(old, logprobs)
        for later, its_old in (update[part] for update in others):
            assert torch.equal(its_old, logprobs)
            assert (later - logprobs).abs().max() > 1e-3


@pytest.mark.parametrize("rollout", [Constrained(), Free(max_new_tokens=5)])
def test_rollouts_of_a_prompt_do_not_depend_on_its_batch(titled, rollout):
    make, (one, other) = titled
    stage = make(rollout=rollout)

    def said(batch, step=1):
        completions = roll_out(stage, batch, step).completions
        rows = [ids[mask].tolist() for ids, mask in zip(*completions, strict=True)]
        return [rows[start : start + 6] for start in range(0, len(rows), 6)]

    first, second = said([one, other])
    assert [second, first] == said([other, one])
    assert [second] == said([other])
    assert first != said([one], step=2)[0]


@pytest.mark.parametrize("rollout", ROLLOUTS)
def test_both_engines_take_the_same_step(titled, rollout):
    make, batch = titled
    found = []
    for engine in (SharedPrefix(), Plain()):
        stage = make(engine=engine, rollout=rollout, beta=0.5)
        judged = roll_out(stage, batch)
        found.append((judged, *loss_and_gradient(stage, judged)))
    (ours, loss, gradient), (theirs, their_loss, expected) = found
    assert ours.texts == theirs.texts
    assert torch.equal(ours.completions.ids, theirs.completions.ids)
    assert torch.equal(ours.learnt, theirs.learnt)
    assert loss == pytest.approx(their_loss, abs=1e-5)
    assert relative_error(gradient, expected) < 1e-5


def test_both_engines_train_alike(make_grpo, tiny, batch, fit):
    weights = copy.deepcopy(tiny.policy.model.state_dict())
    logs = []
    for engine in (SharedPrefix(), Plain()):
        tiny.policy.model.load_state_dict(weights)
        logged: list[dict] = []
        stage = make_grpo(engine=engine, micro_batch_size=12, steps=4, beta=0.1, iterations=2)
        stage.log_step = logged.append
        fit(stage, [batch] * 4)
        logs.append(logged)
    assert len(logs[0]) == 8
    assert logs[0][-1]["kl"] > 1e-3
    for ours, theirs in zip(*logs, strict=True):
        assert ours.keys() == theirs.keys()
        for name, value in ours.items():
            assert_close(value, theirs[name], atol=1e-5, rtol=1e-4)
