"""Linear layers by faster products, and LoRA layers as single products, as long as no weight changes.

PEFT adds each adapter's two thin products to the layer's output. Between two updates W + sBA is constant. The forward pass
and the gradient of the input need only one product with it; only the gradients of A and B need thin products.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from mllmrec.engine.products import linear, product


class FastLayers:
    """Linear layers run by `products`, with W + sBA of adapted layers computed once; valid until a weight changes."""

    def __init__(self, modules: Iterable[Any], *, merges: bool = True) -> None:
        """Merge the adapters in ``modules`` that can be merged exactly; PEFT still runs the others.

        Args:
            modules: all modules of the model.
            merges: whether W + sBA may be kept beside W; if not, PEFT runs all adapters.
        """
        # Takes seconds, and the check of every configuration imports the engine.
        from peft.tuners.lora import Linear as LoraLinear

        self._layers: list[tuple[Any, Any]] = []
        self._weights: dict[Any, Tensor] = {}
        inner: set[Any] = set()  # modules inside merged layers, which no longer run themselves
        for layer in modules:
            if merges and isinstance(layer, LoraLinear) and (merged := _merged(layer)) is not None:
                forward, self._weights[layer] = merged
                self._layers.append((layer, forward))
                inner |= set(layer.modules())
            elif type(layer) is torch.nn.Linear and layer not in inner:
                self._weights[layer] = layer.weight
                self._layers.append((layer, partial(linear, weight=layer.weight, bias=layer.bias)))

    def weight(self, layer: Any) -> Tensor | None:
        """(O, I), the one product that a layer runs as, W or W + sBA; None for a layer that runs otherwise."""
        return self._weights.get(layer)

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Run the layers this way in the block."""
        for layer, forward in self._layers:
            layer.forward = forward
        try:
            yield
        finally:
            for layer, _ in self._layers:
                del layer.forward


def _merged(layer: Any) -> tuple[Any, Tensor] | None:
    """A forward pass by the single product, and W + sBA; None if that is not exactly what PEFT computes."""
    base = layer.get_base_layer()
    active = [name for name in layer.active_adapters if name in layer.lora_A]
    if layer.disable_adapters or layer.merged or not active or type(base) is not torch.nn.Linear:
        return None
    # In half precision, rounding W + sBA would change what the layer computes.
    if base.weight.dtype not in (torch.float32, torch.float64) or base.weight.requires_grad:
        return None
    if torch.is_autocast_enabled(base.weight.device.type):
        return None
    if any(name in layer.lora_variant for name in active):
        return None
    if layer.training and any(getattr(layer.lora_dropout[name], "p", 0) > 0 for name in active):
        return None
    with torch.no_grad():
        weight = base.weight.clone()
        for name in active:
            weight += layer.get_delta_weight(name)
    trainable = [name for name in active if layer.lora_A[name].weight.requires_grad]
    if len(trainable) > 1:
        return None
    if not trainable:
        return partial(linear, weight=weight, bias=base.bias), weight
    (name,) = trainable
    down, up = layer.lora_A[name].weight, layer.lora_B[name].weight
    scaling = float(layer.scaling[name])

    def forward(inputs: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            return product(inputs, weight, base.bias)
        return _Merged.apply(inputs, weight, base.bias, down, up, scaling)

    return forward, weight


class _Merged(torch.autograd.Function):
    """``x (W + s B A)^T + b`` with gradients of x, A and B."""

    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        down: Tensor,
        up: Tensor,
        scaling: float,
    ) -> Tensor:
        ctx.save_for_backward(inputs, weight, down, up)
        ctx.scaling = scaling
        return product(inputs, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        inputs, weight, down, up = ctx.saved_tensors
        of_inputs = product(gradient, weight.T) if ctx.needs_input_grad[0] else None
        rows, upstream = inputs.flatten(0, -2), gradient.flatten(0, -2)
        of_down = ((upstream @ up) * ctx.scaling).T @ rows
        of_up = upstream.T @ ((rows @ down.T) * ctx.scaling)
        return of_inputs, None, None, of_down, of_up, None
