"""Rollouts that a server on loopback draws with the policy's adapter: what comes back, which adapter drew it, the loss."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from loopback_vllm import LoopbackVllm
from torch.testing import assert_close

from mllmrec.errors import UserError
from mllmrec.prompts.answer_tokens import AnswerTokens
from mllmrec.rl.batch import RolloutBatch
from mllmrec.rl.behaviour import truncated_ratio
from mllmrec.rollout.base import Turn
from mllmrec.rollout.free import Free
from mllmrec.rollout.profiled import Profiled
from mllmrec.rollout.reasoned import Reasoned
from mllmrec.step.served import Agreement, Served, Vllm
from mllmrec.step.server_check import check_server

FREE = Free(temperature=0.8, max_new_tokens=6)


@pytest.fixture
def loopback(checkpoints):
    server = LoopbackVllm(checkpoints("qwen3"))
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def settings(loopback):
    """``settings(**others)`` of the generator; no time passes between tries."""

    def make(**others):
        return Vllm(**{"base_url": loopback.url, "attempts": 2, "backoff_seconds": 0.01, **others})

    return make


@pytest.fixture
def policy(make_pretrained, shake):
    """Two phases with adapters of other ranks, neither of which is zero."""
    policy = make_pretrained()
    policy.begin_phase("sft")
    shake(policy, "sft")
    policy.begin_phase("grpo", {"rank": 2, "target_modules": ["q_proj", "down_proj"]})
    shake(policy, "grpo")
    return policy


@pytest.fixture
def world(policy, make_step, make_builder, make_examples, settings, tmp_path):
    """``world(rollout, **settings)``: a step whose completions the server draws, and two examples."""
    opened = []

    def make(rollout=FREE, group_size=3, iterations=1, truncate=2.0, **others):
        builder = make_builder("compact", answer="id")
        answers = AnswerTokens(builder, policy.encode_answers, policy.end_token)
        step = make_step(
            policy,
            answers,
            builder,
            begin=False,
            rollout=rollout,
            group_size=group_size,
            iterations=iterations,
        )
        step.settings = replace(step.settings, truncate_at=truncate)
        served = Served(settings(**others), policy, tmp_path / "adapters", iterations)
        opened.append(served.__enter__())
        step.speaker.served = served
        examples = make_examples(builder)
        return step, served, [examples[0], examples[3]]

    yield make
    for served in opened:
        served.__exit__(None, None, None)


def drawn_by_server(batch: RolloutBatch):
    assert batch.behaviour is not None
    return batch.learnt & ~batch.behaviour.isnan()


def test_the_server_draws_with_the_policys_stack_of_adapters(world, loopback):
    step, served, examples = world()
    batch = step.speaker.complete(examples, Turn(0, 3))
    assert len(batch) == 6
    assert torch.equal(drawn_by_server(batch), batch.completions.mask)
    assert_close(batch.behaviour[batch.learnt], step.speaker.score(batch)[batch.learnt], atol=1e-3, rtol=0)
    (name,) = loopback.adapters
    assert name.endswith("-000000")
    (body, _) = [body for path, body in loopback.calls if path == "/v1/completions"]
    assert body["model"] == name
    assert served.lag == 0


def test_a_seed_decides_what_the_server_is_asked_for(world, loopback):
    step, _, examples = world()
    first = step.speaker.complete(examples, Turn(0, 3))
    assert step.speaker.complete(examples, Turn(0, 3)).texts == first.texts
    assert step.speaker.complete(examples, Turn(1, 3)).texts != first.texts


@pytest.mark.parametrize("answer", ["sampled", "enumerated"])
def test_reasoning_comes_from_the_server_and_answers_from_the_policy(world, answer):
    step, _, examples = world(Reasoned(answer, max_reasoning_tokens=5), group_size=2)
    step.speaker._reasoning = step.speaker.policy.reasoning_tokens()
    batch = step.speaker.complete(examples, Turn(0, 2))
    assert len(batch) == (4 if answer == "sampled" else 2 * 2 * 4)
    said = drawn_by_server(batch)
    assert bool((said == (batch.learnt & (batch.segments == -1))).all())
    assert said.sum(1).min() > 0
    scores = step.speaker.score(batch)
    assert_close(batch.behaviour[said], scores[said], atol=1e-3, rtol=0)


def test_profiles_come_from_the_server(world):
    step, _, examples = world(Profiled(max_reasoning_tokens=5), group_size=2)
    batch = step.speaker.complete(examples, Turn(0, 2))
    said = drawn_by_server(batch)
    assert torch.equal(said, batch.learnt)
    assert_close(batch.behaviour[said], step.speaker.score(batch)[said], atol=1e-3, rtol=0)


def rewarded(step, batch):
    batch = replace(batch, rewards=torch.arange(len(batch)) % 3 * 1.0)
    return replace(batch, advantages=step.advantage(batch))


def test_each_tokens_loss_is_multiplied_by_the_truncated_ratio(world, gradient_of):
    step, served, examples = world()
    batch = rewarded(step, step.speaker.complete(examples, Turn(0, 3)))
    # As if an older adapter had drawn them: every second token was half as likely, or a twentieth.
    half, little = torch.tensor(2.0).log(), torch.tensor(20.0).log()
    apart = torch.zeros_like(batch.behaviour)
    apart[:, 1::2], apart[0, 0] = half, little
    batch = replace(batch, behaviour=batch.behaviour - apart)
    served.lag = 1
    weights = truncated_ratio(step.speaker.score(batch), batch.behaviour, 2.0)
    assert_close(weights[0, :2], torch.tensor([2.0, 2.0]), atol=1e-2, rtol=0)
    loss, gradient = gradient_of(step, batch)

    # The same as advantages of each token that are so many times as large.
    plain = replace(batch, behaviour=None, advantages=batch.advantages[:, None] * weights)
    same_loss, same_gradient = gradient_of(step, plain)
    assert loss == pytest.approx(same_loss, abs=1e-4)
    assert_close(gradient, same_gradient, atol=1e-4, rtol=1e-3)

    step.settings = replace(step.settings, truncate_at=None)
    _, uncorrected = gradient_of(step, batch)
    assert not torch.allclose(gradient, uncorrected, atol=1e-3)


def changed(step):
    """An update: the adapter becomes another one."""

    def update(shares):
        for share in shares:
            share.backward()
        with torch.no_grad():
            for weight in step.speaker.policy.model.parameters():
                if weight.requires_grad:
                    weight.add_(0.02)
        return {}

    return update


def test_every_update_is_pushed_and_the_one_before_it_removed(world, loopback, tmp_path):
    step, served, examples = world()
    for number in range(3):
        batch = rewarded(step, step.speaker.complete(examples, Turn(number, 3)))
        assert served.lag == 0
        assert_close(
            batch.behaviour[batch.learnt], step.speaker.score(batch)[batch.learnt], atol=1e-3, rtol=0
        )
        (metrics,) = step.updates(batch, changed(step))
        assert metrics["sampling/policy_lag"] == 0
        assert metrics["sampling/sampling_logp_difference/max"] < 1e-3
        assert metrics["sampling/importance_sampling_ratio/mean"] == pytest.approx(1, abs=1e-3)
    assert [name[-7:] for name in loopback.loaded()] == ["-000000", "-000001", "-000002"]
    assert len(loopback.adapters) == 1
    assert len(list((tmp_path / "adapters").iterdir())) == 1
    served.__exit__(None, None, None)
    assert loopback.adapters == {}
    assert list((tmp_path / "adapters").iterdir()) == []


def test_the_next_step_is_drawn_ahead_one_update_behind(world, loopback):
    step, served, examples = world(max_lag=1)
    lags = []
    for number in range(3):
        batch = rewarded(step, step.speaker.complete(examples, Turn(number, 3)))
        lags.append(served.lag)
        step.ask_ahead(examples, number + 1)
        before = copy.deepcopy(batch.behaviour)
        (metrics,) = step.updates(batch, changed(step))
        assert metrics["sampling/policy_lag"] == lags[-1]
        assert (metrics["sampling/sampling_logp_difference/mean"] > 1e-2) == (number > 0)
        assert torch.equal(torch.nan_to_num(before), torch.nan_to_num(batch.behaviour))
    assert lags == [0, 1, 1]
    asked = [body["model"][-7:] for path, body in loopback.calls if path == "/v1/completions"]
    assert asked[:6] == ["-000000"] * 4 + ["-000001"] * 2


def test_a_step_with_other_prompts_does_not_take_what_was_drawn_ahead(world, loopback):
    step, _, examples = world(max_lag=1)
    step.ask_ahead(examples, 1)
    batch = step.speaker.complete(examples[::-1], Turn(1, 3))
    assert_close(batch.behaviour[batch.learnt], step.speaker.score(batch)[batch.learnt], atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("max_lag", "words"), [(0, "stale adapter.*-000000 is 1 updates behind.*max_lag=0 allows 0"), (1, None)]
)
def test_a_stale_adapter_is_counted_as_lag_or_refused(world, loopback, max_lag, words):
    step, served, examples = world(max_lag=max_lag)
    batch = rewarded(step, step.speaker.complete(examples, Turn(0, 3)))
    list(step.updates(batch, changed(step)))
    (old,) = loopback.adapters
    loopback.plan = lambda path, body: old if path == "/v1/completions" else None
    loopback.unload = lambda body: (200, "")  # it keeps the old one
    if words:
        with pytest.raises(UserError, match=words):
            step.speaker.complete(examples, Turn(1, 3))
    else:
        step.speaker.complete(examples, Turn(1, 3))
        assert served.lag == 1


def test_an_adapter_that_the_server_ignores_is_found_by_its_probabilities(world, loopback):
    step, _, examples = world()
    loopback.plan = lambda path, body: loopback.name  # answers by the base model, under the adapter's name
    batch = rewarded(step, step.speaker.complete(examples, Turn(0, 3)))
    weights = [weight.clone() for weight in step.speaker.policy.model.parameters()]
    with pytest.raises(UserError, match=r"differ from the policy's by .* though both have the same adapter"):
        list(step.updates(batch, changed(step)))
    after = step.speaker.policy.model.parameters()
    assert all(torch.equal(one, other) for one, other in zip(weights, after, strict=True))


def test_an_answer_under_another_name_is_refused(world, loopback):
    step, _, examples = world()
    loopback.plan = lambda path, body: "as another" if path == "/v1/completions" else None
    with pytest.raises(UserError, match="answers as mllmrec-another, and was asked for policy-"):
        step.speaker.complete(examples, Turn(0, 3))


def test_a_server_that_was_started_again_gets_the_adapter_again(world, loopback):
    step, _, examples = world()
    first = step.speaker.complete(examples, Turn(0, 3))
    loopback.adapters.clear()
    assert step.speaker.complete(examples, Turn(0, 3)).texts == first.texts
    assert len(set(loopback.loaded())) == 1
    assert len(loopback.loaded()) >= 2


def test_settings_that_make_no_sense():
    for wrong, words in (
        ({"max_lag": 2}, "must be 0 .* or 1"),
        ({"truncate_at": 0.5}, "must be at least 1"),
        ({"max_difference": 0.0}, "must be greater than 0"),
    ):
        with pytest.raises(UserError, match=words):
            Agreement(**wrong)
    with pytest.raises(UserError, match="goes with adapter_folder"):
        Vllm(seen_as="/mnt/adapters")


def test_the_check_before_training(loopback, settings, make_pretrained, monkeypatch, tmp_path):
    policy, folder = make_pretrained(), tmp_path / "served"
    before = {name: weight.clone() for name, weight in policy.model.named_parameters()}

    def check(policy=policy, temperature=1.0, top_p=1.0, rank=8, **others):
        check_server(settings(**others), policy, folder, rank=rank, temperature=temperature, top_p=top_p)

    check()
    check(temperature=0.5, top_p=0.9)
    assert loopback.adapters == {}
    assert not folder.exists()
    after = dict(policy.model.named_parameters())
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)

    with pytest.raises(UserError, match="rank 65 is greater than max_lora_rank 64"):
        check(rank=65)
    with pytest.raises(UserError, match="No adapter found for /elsewhere"):
        check(adapter_folder=str(folder), seen_as="/elsewhere")
    assert not folder.exists()

    monkeypatch.setattr(loopback, "processed", False)
    with pytest.raises(UserError, match="--logprobs-mode processed_logprobs"):
        check(temperature=0.5)
    check()  # where it makes no difference
    monkeypatch.setattr(loopback, "processed", True)

    with torch.no_grad():
        policy.model.lm_head.weight.mul_(0.5)
    with pytest.raises(UserError, match=r"has another model.*nats per token"):
        check()

    monkeypatch.setattr(
        loopback, "tokenizer", type("T", (), {"__call__": lambda self, *_, **__: {"input_ids": [1, 2]}})()
    )
    with pytest.raises(UserError, match="another tokenizer: it makes 2 tokens"):
        check(make_pretrained("llama"))


def test_an_adapter_of_an_embedding_is_refused_before_training(loopback, settings, make_pretrained, tmp_path):
    lora = {"rank": 2, "alpha": 2, "dropout": 0.0, "target_modules": ["embed_tokens"]}
    with pytest.raises(UserError, match="lora_embedding_A, which a server cannot add"):
        check_server(settings(), make_pretrained(lora=lora), tmp_path / "served", rank=2, temperature=1.0)
