"""Adapters of a policy's phases: their settings, and which of them train."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from peft import LoraConfig


def adapter_config(settings: Mapping[str, Any]) -> LoraConfig:
    """PEFT's settings of an adapter.

    Args:
        settings: ``rank, alpha, dropout, target_modules``, and ``use_dora`` and ``use_rslora`` if they are set.
    """
    from peft import LoraConfig

    targets = settings["target_modules"]
    return LoraConfig(
        r=settings["rank"],
        lora_alpha=settings["alpha"],
        lora_dropout=settings["dropout"],
        target_modules=targets if isinstance(targets, str) else list(targets),
        use_dora=bool(settings.get("use_dora")),
        use_rslora=bool(settings.get("use_rslora")),
        task_type="CAUSAL_LM",
    )


def silence_dropout(model: torch.nn.Module, names: Sequence[str]) -> None:
    """Take the dropout out of frozen adapters: it would make the policy differ from its reference before any update."""
    from peft.tuners.lora import LoraLayer

    for module in model.modules():
        if isinstance(module, LoraLayer):
            module.lora_dropout.update(
                {name: torch.nn.Identity() for name in names if name in module.lora_dropout}
            )
