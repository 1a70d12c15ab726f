from __future__ import annotations

import pytest
import torch
from torch.nn import functional
from torch.testing import assert_close

from mllmrec.engine import products
from mllmrec.engine.products import linear, product, recurring


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("shape", [(5, 12), (8, 12), (1, 16, 12), (2, 64, 12)], ids=str)
@pytest.mark.parametrize("with_bias", [False, True])
def test_values_and_gradients_are_those_of_torch(dtype, shape, with_bias):
    generator = torch.Generator().manual_seed(0)
    inputs, weight, bias = (
        torch.randn(size, generator=generator, dtype=dtype, requires_grad=True)
        for size in (shape, (9, 12), (9,))
    )
    given = bias if with_bias else None
    used = [inputs, weight, bias] if with_bias else [inputs, weight]
    direction = torch.randn(*shape[:-1], 9, generator=generator, dtype=dtype)
    expected = functional.linear(inputs, weight, given)
    found = linear(inputs, weight, given)
    assert_close(found, expected)
    for one, two in zip(
        torch.autograd.grad(found, used, direction),
        torch.autograd.grad(expected, used, direction),
        strict=True,
    ):
        assert_close(one, two)
    with torch.no_grad():
        assert_close(linear(inputs, weight, given), expected.detach())


def test_a_frozen_weight_gets_no_gradient():
    inputs, weight = torch.ones(8, 3, requires_grad=True), torch.ones(4, 3)
    linear(inputs, weight).sum().backward()
    # Each of the four outputs passes a gradient of one to every input.
    assert inputs.grad.tolist() == [[4.0] * 3] * 8
    assert weight.grad is None


def test_transposed_views_are_read_as_they_stand():
    left, right = torch.arange(24.0).view(3, 8).T, torch.arange(12.0).view(3, 4).T
    assert_close(product(left, right), left @ right.T)


def test_half_precision_and_autocast_go_torchs_own_way():
    inputs, weight = torch.ones(8, 3, dtype=torch.bfloat16), torch.ones(4, 3, dtype=torch.bfloat16)
    assert linear(inputs, weight).dtype == torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(inputs.float(), weight.float()).dtype == torch.bfloat16


def test_no_rows_are_no_error():
    assert linear(torch.ones(0, 3), torch.ones(4, 3)).shape == (0, 4)


def test_without_onednn_torch_is_asked(monkeypatch):
    monkeypatch.setattr(products, "_BUILT_IN", False)
    weight = torch.ones(4, 3, requires_grad=True)
    linear(torch.ones(8, 3), weight).sum().backward()
    assert weight.grad.tolist() == [[8.0] * 3] * 4


def test_few_numbers_of_rows_recur():
    assert [recurring(rows) for rows in (1, 8, 9, 60, 64, 65, 128, 2046)] == [
        8,
        8,
        16,
        64,
        64,
        128,
        128,
        2048,
    ]
