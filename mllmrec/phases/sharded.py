"""FSDP2: the optimiser's state and its weights are divided among the processes, through Lightning's ModelParallelStrategy.

Between two updates every process holds all weights, so that it draws, scores and ranks without waiting for the others, which
have other numbers of passes. Each update sums the gradients into the shards, moves those, and gathers the weights again.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import lightning
import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from mllmrec.errors import UserError
from mllmrec.models.policy import Policy
from mllmrec.phases.base import PhaseModule
from mllmrec.phases.whole_state import WholeState
from mllmrec.step.updates import Updates


class Division:
    """A copy of a policy's model whose weights are divided."""

    def __init__(self, model: Any) -> None:
        """Copy the model, which stays as it is.

        Raises:
            UserError: this version of torch cannot sum gradients into shards.
        """
        from torch.distributed.fsdp import FSDPModule

        if not hasattr(FSDPModule, "set_force_sum_reduction_for_comms"):
            raise UserError(
                f"trainer.strategy=fsdp2 needs a later torch than {torch.__version__}, such as 2.13: use trainer=ddp"
            )
        self.model: Any = copy.deepcopy(model)

    def divide(self, module: lightning.LightningModule) -> None:
        """Divide the weights layer by layer.

        Args:
            module: knows the mesh of the processes.
        """
        from torch.distributed.fsdp import fully_shard

        mesh: Any = module.device_mesh["data_parallel"]  # type: ignore[index]
        known = [getattr(part, "_no_split_modules", None) or () for part in self.model.modules()]
        layers = {name for names in known for name in names}
        for part in list(self.model.modules()):
            if type(part).__name__ in layers:
                fully_shard(part, mesh=mesh)
        fully_shard(self.model, mesh=mesh)
        for part in self._parts():
            # A sum, not a mean; gloo has no other operation.
            part.set_gradient_divide_factor(1.0)
            part.set_force_sum_reduction_for_comms(True)

    def gather(self) -> None:
        """Hold all weights, and keep gradients where they arise."""
        for part in self._parts():
            part.set_reshard_after_forward(False, recurse=False)
            part.set_reshard_after_backward(False, recurse=False)
            part.set_requires_gradient_sync(False, recurse=False)
            part.unshard()

    def scatter(self) -> None:
        """Hold the own shards alone."""
        for part in self._parts():
            part.reshard()

    def updates(self, updates: Updates) -> Updates:
        """The same updates, of divided weights."""
        return DividedUpdates(updates, self)

    def summed(self, shares: Iterable[Tensor]) -> Iterator[Tensor]:
        """The shares, and one more of 0, whose backward pass sums the gradients of all processes into the shards.

        It is the only pass in which processes wait for each other, so each may have another number of shares.
        """
        yield from shares
        for part in self._parts():
            part.set_requires_gradient_sync(True, recurse=False)
            part.set_reshard_after_backward(True, recurse=False)
        place = next(self.model.parameters()).device
        tokens = torch.zeros(1, 1, dtype=torch.long, device=place)
        yield self.model(input_ids=tokens, use_cache=False).logits.sum() * 0.0

    def _parts(self) -> Iterator[Any]:
        from torch.distributed.fsdp import FSDPModule

        return (part for part in self.model.modules() if isinstance(part, FSDPModule))


class DividedUpdates(Updates):
    """Updates of divided weights: gradients are summed into the shards before, and weights gathered afterwards."""

    def __init__(self, updates: Updates, division: Division) -> None:
        self.__dict__.update(updates.__dict__)
        self.division = division

    def __call__(self, shares: Iterable[Tensor]) -> dict[str, float]:
        """See `Updates`."""
        numbers = super().__call__(self.division.summed(shares))
        self.division.gather()
        return numbers


class Shards(WholeState, ModelParallelStrategy):
    """Lightning's FSDP2 for a phase whose model is divided."""

    def setup(self, trainer: lightning.Trainer) -> None:
        """Give the optimiser the shards, then gather the weights."""
        super().setup(trainer)
        module: Any = self.lightning_module
        module.division.gather()

    def moments(self, optimizer: Any) -> list[dict[str, Tensor]]:
        """See `WholeState`."""
        return [
            {
                name: value.full_tensor() if isinstance(value, DTensor) else value
                for name, value in optimizer.state[weight].items()
            }
            for weight in _weights(optimizer)
        ]

    def take_moments(self, moments: Sequence[Mapping[str, Tensor]]) -> None:
        """See `WholeState`."""
        optimizer = self.optimizers[0]
        for weight, state in zip(_weights(optimizer), moments, strict=True):
            optimizer.state[weight] = {
                name: _divided_as(weight, value) if value.dim() else value.clone()
                for name, value in state.items()
            }

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Copy the weights into the shards."""
        module: Any = self.lightning_module
        module.division.scatter()
        given = checkpoint["state_dict"]
        with torch.no_grad():
            for name, weight in module.named_parameters():
                if name in given:
                    weight.copy_(_divided_as(weight, given[name]))
        module.division.gather()


def _weights(optimizer: Any) -> list[DTensor]:
    return [weight for group in optimizer.param_groups for weight in group["params"]]


def _divided_as(weight: DTensor, value: Tensor) -> DTensor:
    """A whole tensor, divided as the weight is."""
    return distribute_tensor(value.to(weight.device), weight.device_mesh, weight.placements)


@contextmanager
def divided(policy: Policy, module: PhaseModule) -> Iterator[None]:
    """Train a divided copy of the policy in the block; afterwards the policy has its weights."""
    model, place = policy.model, policy.device
    # The copy is divided on the device, which need not hold the model twice.
    division = Division(model.cpu())
    module.division = division
    policy.model = module.model = division.model
    try:
        yield
        trained = dict(division.model.named_parameters())
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if weight.requires_grad:
                    weight.copy_(trained[name])
    finally:
        module.division = None
        policy.model = module.model = model.to(place)
