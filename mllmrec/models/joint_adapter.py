"""A policy's stacked adapters as one adapter in a folder, for a server that applies a single one. The policy stays as it is."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from mllmrec.errors import UserError
from mllmrec.models.adapters import adapter_config
from mllmrec.models.policy import Policy

Matrices = dict[str, tuple[torch.Tensor, torch.Tensor]]  # module → sA and B

_A, _B = ".lora_A.weight", ".lora_B.weight"


def write_joint_adapter(policy: Policy, folder: Path) -> None:
    """Write one adapter of the same function: Σ sᵢ BᵢAᵢ = [B₁ B₂ …] [s₁A₁; s₂A₂; …], with scaling 1 and the sum of the ranks.

    Args:
        policy: a policy with LoRA adapters.
        folder: an existing folder.

    Raises:
        UserError: an adapter is more than a product of two matrices beside a linear layer.
    """
    _write([_matrices(policy.model, name) for name in policy.phases], folder)


def write_first_adapter(policy: Policy, rank: int, folder: Path) -> None:
    """Write an adapter that changes nothing, with the modules of the policy's first adapter.

    Args:
        policy: a policy that will have LoRA adapters and has none yet.
        rank: of the adapter.
        folder: an existing folder.

    Raises:
        UserError: as in `write_joint_adapter`.
    """
    from peft import get_peft_model

    assert policy.lora is not None
    config = adapter_config({**policy.lora, "rank": rank, "alpha": rank, "dropout": 0.0})
    with torch.random.fork_rng(devices=[]):
        model: Any = get_peft_model(policy.model, config, adapter_name="backbone")
    try:
        _write([_matrices(model, "backbone")], folder)
    finally:
        policy.model = model.unload()


def _write(parts: list[Matrices], folder: Path) -> None:
    from peft import LoraConfig

    rank = sum(max(one.shape[0] for one, _ in part.values()) for part in parts)
    modules = list(dict.fromkeys(module for part in parts for module in part))
    weights: dict[str, torch.Tensor] = {}
    for module in modules:
        found = [part[module] for part in parts if module in part]
        # A phase may have fewer ranks here than elsewhere, or no adapter; zeros change nothing.
        weights[module + _A] = _filled(torch.cat([one for one, _ in found], 0), rank, 0)
        weights[module + _B] = _filled(torch.cat([one for _, one in found], 1), rank, 1)
    save_file(weights, folder / "adapter_model.safetensors")
    LoraConfig(
        r=rank,
        lora_alpha=rank,
        target_modules=sorted({module.rsplit(".", 1)[-1] for module in modules}),
        task_type="CAUSAL_LM",
        inference_mode=True,
    ).save_pretrained(str(folder))


def _matrices(model: Any, name: str) -> Matrices:
    """Of each module with an adapter: sA and B, on the CPU."""
    from peft import get_peft_model_state_dict

    config = model.peft_config[name]
    state = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
    odd = [key for key in state if not key.endswith((_A, _B))]
    if odd or config.use_dora:
        raise UserError(
            f"the adapter of {name} has {odd[0] if odd else 'DoRA'}, which a server cannot add to its own weights: set "
            "generator=null, or an adapter of linear layers alone (backbone.lora.target_modules, peft=lora)"
        )
    scale = config.lora_alpha / (math.sqrt(config.r) if config.use_rslora else config.r)
    return {
        key.removesuffix(_A): (
            (weight.detach() * scale).cpu().contiguous(),
            state[key.removesuffix(_A) + _B].detach().cpu().contiguous(),
        )
        for key, weight in state.items()
        if key.endswith(_A)
    }


def _filled(matrix: torch.Tensor, size: int, along: int) -> torch.Tensor:
    missing = size - matrix.shape[along]
    if missing == 0:
        return matrix
    shape = list(matrix.shape)
    shape[along] = missing
    return torch.cat([matrix, matrix.new_zeros(shape)], along).contiguous()
