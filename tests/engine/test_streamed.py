"""Streamed passes give the scores and gradients of whole ones, and hold the activations of one chunk."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from mllmrec.engine.batches import pad
from mllmrec.engine.plain import Plain
from mllmrec.engine.shared_prefix import SharedPrefix
from mllmrec.engine.streamed import spans
from mllmrec.errors import UserError

# 18, 1, 10 and 4 tokens, of which the last ones run with the completions.
PROMPTS = [list(range(10, 28)), [21], list(range(31, 41)), [5, 6, 7, 8]]
# One, three and two completions; prompt 3 has none. Prompt 0's begin alike.
COMPLETIONS = [
    [41, 42, 43, 44, 45, 46, 47, 2],
    [41, 42, 43, 50, 2],
    [51, 2],
    [52, 53, 54, 55, 56, 57, 58, 59, 2],
    [41, 2],
    [42, 43, 44, 2],
]
PROMPT_OF = torch.tensor([0, 0, 0, 1, 2, 2])


def coefficients_of(scores):
    """The same numbers in any precision."""
    return torch.randn(scores.shape, generator=torch.Generator().manual_seed(0)).to(scores.dtype)


def run(engine, model, backward=True):
    """Log-probabilities, and the gradients of a sum in which every token has its own coefficient, by name."""
    prompts, completions = pad(PROMPTS, 0, side="left"), pad(COMPLETIONS, 0, side="right")
    scores = engine.score(model, engine.encode(model, prompts), completions, PROMPT_OF).logprobs
    coefficients = coefficients_of(scores)
    named = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    if not backward:
        return scores, named
    found = torch.autograd.grad((coefficients * scores).sum(), list(named.values()))
    return scores.detach(), dict(zip(named, found, strict=True))


def assert_same(found, expected, limit):
    assert_close(found[0], expected[0], atol=limit * float(expected[0].abs().max()), rtol=0)
    assert found[1].keys() == expected[1].keys()
    largest = max(float(gradient.abs().max()) for gradient in expected[1].values())
    for name, gradient in expected[1].items():
        assert float((found[1][name] - gradient).abs().max()) < limit * largest, name


@pytest.fixture
def make_trained(make_pretrained, shake, make_double):
    """A policy whose adapter, or all of whose weights, train; in double precision if asked."""

    def make(name="qwen3", double=True, dropout=0.0, **settings):
        policy = make_pretrained(name, **settings)
        torch.manual_seed(0)
        policy.begin_phase("sft", {"dropout": dropout}, keep_reference=False)
        shake(policy, "sft")
        if double:
            make_double(policy.model)
        return policy

    return make


@pytest.mark.parametrize("chunk", [1, 7, 12, 25])
@pytest.mark.parametrize("lora", ["adapter", "whole"])
@pytest.mark.parametrize("name", ["qwen3", "qwen2", "llama"])
def test_gradients_equal_those_of_whole_passes(make_trained, name, lora, chunk):
    model = make_trained(name, **({} if lora == "adapter" else {"lora": None})).model
    expected = run(SharedPrefix(), model)
    assert_same(run(SharedPrefix(chunk), model), expected, 1e-10)
    assert_same(run(Plain(), model), expected, 1e-9)


def test_single_precision_is_as_exact_as_in_whole_passes(make_trained):
    # Chunks add up in another order, so neither pass is the other's to the last digit: both are held against double
    # precision, and rounding is 6e-8 of a number.
    exact = run(SharedPrefix(), make_trained().model)[1]
    model = make_trained(double=False).model

    def error(engine):
        found = run(engine, model)[1]
        gone = sum(float((found[name].double() - exact[name]).square().sum()) for name in exact)
        return (gone / sum(float(gradient.square().sum()) for gradient in exact.values())) ** 0.5

    assert error(SharedPrefix(7)) < 2 * error(SharedPrefix()) < 5e-6


def test_activations_of_one_chunk_are_held(make_trained):
    model, runs = make_trained().model, []
    model.get_base_model().model.layers[0].mlp.register_forward_pre_hook(
        lambda module, inputs: runs.append((torch.is_grad_enabled(), inputs[0].shape[1]))
    )
    run(SharedPrefix(8), model)
    # Every chunk runs twice, the second time with a graph.
    assert len(runs) >= 12
    assert runs.count((True, 8)) == runs.count((False, 8)) == len(runs) / 2
    runs.clear()
    run(SharedPrefix(), model)
    assert all(graph and tokens > 20 for graph, tokens in runs)


def test_no_copy_of_the_weights_is_kept(make_trained):
    model, prompts = make_trained().model, pad(PROMPTS, 0, side="left")
    layer = model.get_base_model().model.layers[0].mlp.up_proj
    ran = []
    layer.lora_A["sft"].register_forward_hook(lambda *_: ran.append(torch.is_grad_enabled()))
    for chunk in (None, 8):
        SharedPrefix(chunk).encode(model, prompts)
        with torch.no_grad():
            SharedPrefix(chunk).encode(model, prompts)
    # Only the streamed pass runs the adapter itself, once in each of the four chunks of 29 tokens.
    assert ran == [False] * 4


def test_a_chunk_draws_the_same_dropout_again(make_trained):
    model = make_trained(dropout=0.5).model.train()

    def value():
        torch.manual_seed(3)
        return run(SharedPrefix(7), model, backward=False)

    scores, named = value()
    scores.sum().backward()
    directions = {name: torch.randn_like(weight) for name, weight in named.items()}
    slope = sum(float((weight.grad * directions[name]).sum()) for name, weight in named.items())
    moved = []
    for step in (1e-5, -2e-5):
        with torch.no_grad():
            for name, weight in named.items():
                weight += step * directions[name]
        moved.append(float(value()[0].detach().sum()))
    assert (moved[0] - moved[1]) / 2e-5 == pytest.approx(slope, rel=1e-5)
    assert not torch.equal(value()[0], run(SharedPrefix(7), model, backward=False)[0])  # dropout draws


def test_a_chunk_runs_in_the_same_precision_again(make_trained):
    model, seen = make_trained(double=False).model, []
    model.get_base_model().model.layers[0].mlp.down_proj.register_forward_hook(
        lambda module, inputs, output: seen.append(output.dtype)
    )
    with torch.autocast("cpu", torch.bfloat16):
        scores, _ = run(SharedPrefix(7), model, backward=False)
    scores.sum().backward()
    assert set(seen) == {torch.bfloat16}


def test_gradients_add_up_over_micro_batches_that_share_a_prefix(make_trained):
    model, engine = make_trained().model, SharedPrefix(7)
    expected = run(SharedPrefix(), model)[1]
    for _ in range(2):
        scores, named = run(engine, model, backward=False)
        coefficients = coefficients_of(scores)
        (coefficients * scores).sum().backward()
    for name, weight in named.items():
        assert_close(weight.grad, 2 * expected[name], atol=1e-9, rtol=1e-9)
    prompts, completions = pad(PROMPTS, 0, side="left"), pad(COMPLETIONS, 0, side="right")
    prefix = engine.encode(model, prompts)
    twice = sum(engine.score(model, prefix, completions, PROMPT_OF).logprobs for _ in range(2))
    found = torch.autograd.grad((coefficients * twice).sum(), list(named.values()))
    for name, gradient in zip(named, found, strict=True):
        assert_close(gradient, 2 * expected[name], atol=1e-9, rtol=1e-9)


def test_checkpointed_layers_are_refused(make_trained):
    model = make_trained(gradient_checkpointing=True).model.train()
    with pytest.raises(UserError, match=r"engine.chunk=7 with backbone.gradient_checkpointing=true"):
        run(SharedPrefix(7), model)
    with torch.no_grad():
        run(SharedPrefix(7), model, backward=False)


def test_columns_are_cut_before_they_exceed_a_chunk():
    assert spans([3, 3, 2, 2, 1], 5) == [(0, 1), (1, 3), (3, 5)]
    assert spans([3, 3, 1], 2) == [(0, 1), (1, 2), (2, 3)]  # at least one column
    assert spans([1, 1], 9) == [(0, 2)]
