"""Checkpoints of a divided optimiser that are those of one process, so that any number of processes can go on from them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch.strategies import ParallelStrategy
from torch import Tensor

from mllmrec.ranks import the_ranks


class WholeState(ABC):
    """Mixed into a strategy of Lightning that divides the optimiser's state."""

    lightning_module: Any
    checkpoint_io: Any
    optimizers: Any

    @abstractmethod
    def moments(self, optimizer: Any) -> list[dict[str, Tensor]]:
        """What the optimiser keeps of each weight, whole, in the order of its weights; all processes have to ask."""

    @abstractmethod
    def take_moments(self, moments: Sequence[Mapping[str, Tensor]]) -> None:
        """Go on from what `moments` returned."""

    @property
    def restore_checkpoint_after_setup(self) -> bool:
        """Yes: the weights are divided in the setup."""
        return True

    @property
    def lightning_restore_optimizer(self) -> bool:
        """Yes."""
        return True

    def optimizer_state(self, optimizer: Any) -> dict[str, Any]:
        """As an undivided optimiser gives it; all processes have to ask, and the first one gets it."""
        kept = {
            place: {name: value.detach().cpu().clone() for name, value in state.items()}
            if the_ranks().leads
            else {}
            for place, state in enumerate(self.moments(optimizer))
        }
        groups = [
            {**{key: value for key, value in group.items() if key != "params"}, "params": list(kept)}
            for group in optimizer.param_groups
        ]
        return {"state": kept, "param_groups": groups}

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Take up `optimizer_state`."""
        (state,) = checkpoint["optimizer_states"]
        self.take_moments([state["state"][place] for place in sorted(state["state"])])
        for group, kept in zip(self.optimizers[0].param_groups, state["param_groups"], strict=True):
            group.update({key: value for key, value in kept.items() if key != "params"})

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """The weights that train; between two steps each process holds all of them."""
        return {
            name: weight.detach()
            for name, weight in self.lightning_module.named_parameters()
            if weight.requires_grad
        }

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        """Write one file, in the first process."""
        ParallelStrategy.save_checkpoint(self, checkpoint, filepath, storage_options)  # type: ignore[arg-type]

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Read it, in every process."""
        torch.cuda.empty_cache()
        return self.checkpoint_io.load_checkpoint(checkpoint_path, weights_only=weights_only)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Copy the weights."""
        self.lightning_module.load_state_dict(checkpoint["state_dict"], strict=strict)
