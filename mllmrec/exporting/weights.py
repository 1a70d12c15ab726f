"""A policy's stacked adapters as one model, or as one adapter.

The adapter of a later phase was trained on the base *with* the earlier adapters. Loaded alone on the plain base it gives
another policy, without a word. So nothing here ever writes the last adapter of several by itself.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from mllmrec.errors import UserError
from mllmrec.models.policy import Policy

ONE = "default"  # peft's own name of a model's only adapter


def merged(policy: Policy, dtype: torch.dtype) -> Any:
    """The policy as a plain model of transformers; the policy must not be used afterwards.

    All adapters are added to the base in float32, so that weights of fewer bits are rounded only once.

    Args:
        policy: a policy that is not on a quantized base.
        dtype: of the model's weights.

    Raises:
        UserError: a layer has a stack of adapters that cannot be added up.
    """
    model = policy.model
    if policy.phases:
        model = model.float()
        _untie(model)
        if len(policy.phases) > 1 and _has_dora(model):
            _replace_by_what_they_compute(model)
            model = model.unload()
        else:
            model = model.merge_and_unload(safe_merge=True, adapter_names=policy.phases)
    return model.to(dtype)


def one_adapter(policy: Policy, dtype: torch.dtype | None) -> tuple[Any, str]:
    """The policy's model with its adapters as a single one, and that adapter's name.

    A lone adapter stays as it is. Several become one whose matrices are theirs side by side: Σ sᵢ BᵢAᵢ =
    [B₁ B₂ …] [s₁A₁; s₂A₂; …], with scaling 1 and the sum of their ranks. This is the same function, not an approximation.

    Args:
        policy: a policy with adapters; it must not be used afterwards.
        dtype: of the adapter's weights; None: unchanged.

    Raises:
        UserError: several adapters, and one is DoRA, which scales what stands below it, so that no one adapter of PEFT
            computes the same.
    """
    model, names = policy.model, list(policy.phases)
    name = names[0]
    if len(names) > 1:
        if _has_dora(model):
            raise UserError(
                f"merge=false: the adapters of {' and '.join(names)} are DoRA, and a stack of them is no adapter: set merge=true"
            )
        # The joint adapter takes the first one's settings, but its scaling has to be 1.
        model.peft_config[name].use_rslora = False
        name = ONE if ONE not in names else f"{ONE}_of_all"
        model.base_model.add_weighted_adapter(names, [1.0] * len(names), name, combination_type="cat")
    if dtype is not None:
        for key, weight in model.named_parameters():
            if f".{name}." in f"{key}." and "lora_" in key:
                weight.data = weight.data.to(dtype)
    return model, name


def _layers(model: Any) -> list[Any]:
    from peft.tuners.lora import LoraLayer

    return [module for module in model.modules() if isinstance(module, LoraLayer)]


def _has_dora(model: Any) -> bool:
    return any(config.use_dora for config in model.peft_config.values())


def _untie(model: Any) -> None:
    """Give the output head a weight of its own if it shares the embedding's, and an adapter changes only one of them."""
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    adapted = {id(layer) for layer in _layers(model)}
    inner, head = (getattr(end, "base_layer", end) for end in ends)
    if head is None or inner.weight is not head.weight or not any(id(end) in adapted for end in ends):
        return
    head.weight = nn.Parameter(head.weight.detach().clone())
    config = model.get_base_model().config
    for part in (config, config.get_text_config()):
        part.tie_word_embeddings = False


@torch.no_grad()
def _replace_by_what_they_compute(model: Any) -> None:
    """Give every layer with adapters the weight that it and they amount to.

    PEFT measures a DoRA adapter against the base weight when it computes; version 0.18 still measures it against the weights
    merged so far when it merges, which is another policy. A layer is linear, so what it computes for unit vectors is its weight, whatever stands on it.
    """
    for layer in _layers(model):
        base = layer.get_base_layer()
        if isinstance(base, nn.Embedding):
            weight = layer(torch.arange(base.num_embeddings, device=base.weight.device))
        elif isinstance(base, nn.Linear):
            rows = layer(torch.eye(base.in_features, device=base.weight.device))
            weight = (rows if base.bias is None else rows - base.bias).T
        else:
            raise UserError(
                f"DoRA adapters on a {type(base).__name__} layer cannot be merged: train with peft=lora"
            )
        base.weight = nn.Parameter(weight.contiguous())
