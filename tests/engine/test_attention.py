"""Attention in two parts equals the softmax over both parts together."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from mllmrec.engine.attention import _math_part, _math_part_backward, with_prefix


def attention_tensors(prompts=2, rows=3, heads=4, kv_heads=2, width=3, prefix=5, size=8):
    """Query, key, value, prefix key and prefix value, and the bias of a last prompt of two tokens."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.randn(*shape, size, generator=generator, dtype=torch.float64, requires_grad=True)

    bias = torch.zeros(prompts, 1, 1, prefix, dtype=torch.float64)
    bias[-1, ..., 2:] = -1e30
    own = [random(prompts * rows, count, width) for count in (heads, kv_heads, kv_heads)]
    return *own, random(prompts, kv_heads, prefix), random(prompts, kv_heads, prefix), bias


def whole_attention(query, key, value, prefix_key, prefix_value, bias, scaling):
    """Softmax over prefix and own tokens together, everything repeated."""
    rows, groups = len(query) // len(prefix_key), query.shape[1] // key.shape[1]
    keys, values = (
        torch.cat([shared.repeat_interleave(rows, 0), own], 2).repeat_interleave(groups, 1)
        for shared, own in ((prefix_key, key), (prefix_value, value))
    )
    width = query.shape[2]
    causal = torch.full((width, width), -torch.inf, dtype=query.dtype).triu(1)
    mask = torch.cat(
        [bias.repeat_interleave(rows, 0).expand(-1, -1, width, -1), causal.expand(len(query), 1, -1, -1)], 3
    )
    return torch.softmax(query @ keys.mT * scaling + mask, -1) @ values


def test_two_parts_make_the_whole_attention():
    *tensors, bias = attention_tensors()
    query, key, value, prefix_key, prefix_value = tensors
    found, expected = (
        attend(query, key, value, prefix_key, prefix_value, bias, 0.3)
        for attend in (with_prefix, whole_attention)
    )
    assert_close(found, expected, atol=1e-12, rtol=0)
    sample = torch.randn(found.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for ours, theirs in zip(
        torch.autograd.grad(found, tensors, sample),
        torch.autograd.grad(expected, tensors, sample),
        strict=True,
    ):
        assert_close(ours, theirs, atol=1e-12, rtol=0)


@pytest.mark.parametrize("is_causal", [False, True])
def test_attention_in_elementary_operations_is_the_gradient_of_its_part(is_causal):
    """The code that devices other than the CPU run: one part's share of the gradient, given the merged result."""
    tensors = attention_tensors(prompts=1, rows=1, heads=2, width=5)
    query, (key, value), (other_key, other_value) = tensors[0], tensors[1:3], tensors[3:5]
    hidden = torch.tensor([0.0, 0, 0, -1e30, -1e30], dtype=torch.float64)
    bias = None if is_causal else hidden
    mask = torch.full((5, 5), -torch.inf, dtype=torch.float64).triu(1) if is_causal else hidden.expand(5, 5)
    scores = torch.cat([query @ key.mT * 0.3 + mask, query @ other_key.mT * 0.3], -1)
    weights = torch.softmax(scores, -1)
    merged = weights @ torch.cat([value, other_value], 2)
    sample = torch.randn(merged.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected = torch.autograd.grad(merged, [query, key, value, other_key, other_value], sample)

    out, lse = _math_part(query, key, value, bias, is_causal, 0.3)
    assert_close(lse, scores[..., :5].logsumexp(-1), atol=1e-12, rtol=0)
    assert_close(out, torch.softmax(scores[..., :5], -1) @ value, atol=1e-12, rtol=0)
    whole = merged.detach(), scores.logsumexp(-1)
    near = _math_part_backward(sample, query, key, value, *whole, bias, is_causal, 0.3)
    far = _math_part_backward(sample, query, other_key, other_value, *whole, None, False, 0.3)
    for ours, theirs in zip((near[0] + far[0], *near[1:], *far[1:]), expected, strict=True):
        assert_close(ours, theirs, atol=1e-12, rtol=0)
