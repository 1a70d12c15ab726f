"""Matrix products of linear layers; oneDNN computes those in single precision on a CPU.

PyTorch gives these products to MKL, which runs them at half of oneDNN's rate on AMD processors
(``experiments/speed.md``). This module calls oneDNN through the operator that PyTorch's own compiler uses. PyTorch itself
computes everything else, and everything in builds without oneDNN.

oneDNN compiles a product for its shape, which takes longer than the product itself, and caches some thousand of them. So it
is used only for numbers of rows that will recur (`recurring`).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

_BUILT_IN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def linear(inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x Wᵀ + b`` with all gradients; (..., I), (O, I), (O,) → (..., O)."""
    if not _by_onednn(inputs, weight):
        return functional.linear(inputs, weight, bias)
    if not torch.is_grad_enabled():
        return product(inputs, weight, bias)
    return _Linear.apply(inputs, weight, bias)


def product(left: Tensor, right: Tensor, bias: Tensor | None = None) -> Tensor:
    """``L Rᵀ + b`` without gradient; (..., I), (O, I), (O,) → (..., O)."""
    if _by_onednn(left, right):
        return _onednn(left, right, bias)
    return functional.linear(left, right, bias)


class Packed:
    """A weight that stays as it is, laid out anew for many products with few rows, and what follows such a product.

    Without gradient. oneDNN computes an activation or a sum along with the product, and reads a weight in blocks of its own
    at a higher rate (``experiments/speed.md``). Where oneDNN computes nothing, PyTorch computes the same in separate steps.
    """

    _ROWS = 16  # the layout suits such a number of rows; others are possible

    def __init__(self, weight: Tensor, bias: Tensor | None = None, *, copies: bool = True) -> None:
        """Lay the weight out.

        Args:
            weight: (O, I).
            bias: (O,).
            copies: whether a second copy of the weight may be kept; if not, it is read as it stands.
        """
        self._weight, self._bias = weight.detach(), None if bias is None else bias.detach()
        self._blocked = self._weight
        if copies and _onednn_runs(weight, weight):
            self._blocked = torch.ops.mkldnn._reorder_linear_weight(self._weight.contiguous(), self._ROWS)

    def __call__(self, inputs: Tensor) -> Tensor:
        """``x Wᵀ + b``; (N, I) → (N, O)."""
        if _by_onednn(inputs, self._weight):
            return _onednn(inputs, self._blocked, self._bias)
        return functional.linear(inputs, self._weight, self._bias)

    def silu(self, inputs: Tensor) -> Tensor:
        """``silu(x Wᵀ + b)``; (N, I) → (N, O)."""
        if _by_onednn(inputs, self._weight):
            return torch.ops.mkldnn._linear_pointwise(inputs, self._blocked, self._bias, "swish", [], "")
        return functional.silu(functional.linear(inputs, self._weight, self._bias))

    def times(self, inputs: Tensor, factor: Tensor) -> Tensor:
        """``(x Wᵀ + b) y``; (N, I), (N, O) → (N, O)."""
        if _by_onednn(inputs, self._weight):
            return torch.ops.mkldnn._linear_pointwise.binary(inputs, factor, self._blocked, self._bias, "mul")
        return functional.linear(inputs, self._weight, self._bias) * factor

    def plus(self, inputs: Tensor, summand: Tensor) -> Tensor:
        """``x Wᵀ + b + y``; (N, I), (N, O) → (N, O)."""
        if _by_onednn(inputs, self._weight):
            return torch.ops.mkldnn._linear_pointwise.binary(
                inputs, summand, self._blocked, self._bias, "add"
            )
        return functional.linear(inputs, self._weight, self._bias) + summand


def recurring(rows: int) -> int:
    """The smallest recurring number of rows from ``rows`` on: a multiple of 64, or below 64 a multiple of 8."""
    step = 64 if rows > 64 else 8
    return -(-rows // step) * step


def _by_onednn(left: Tensor, right: Tensor) -> bool:
    rows = left.numel() // max(left.shape[-1], 1)
    return rows > 0 and rows == recurring(rows) and _onednn_runs(left, right)


def _onednn_runs(left: Tensor, right: Tensor) -> bool:
    single = left.dtype == right.dtype == torch.float32 and left.device.type == "cpu"
    usable = _BUILT_IN and bool(torch.backends.mkldnn.enabled) and not torch.is_autocast_enabled("cpu")
    return single and usable


def _onednn(left: Tensor, right: Tensor, bias: Tensor | None = None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(left, right, bias, "none", [], "")


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(inputs, weight)
        return _onednn(inputs, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        inputs, weight = ctx.saved_tensors
        of_inputs = of_weight = of_bias = None
        if ctx.needs_input_grad[0]:
            of_inputs = _onednn(gradient, weight.T)
        if ctx.needs_input_grad[1]:
            of_weight = _onednn(gradient.flatten(0, -2).T, inputs.flatten(0, -2).T)
        if ctx.needs_input_grad[2]:
            of_bias = gradient.flatten(0, -2).sum(0)
        return of_inputs, of_weight, of_bias
