"""FSDP2: the optimiser's state and its weights are divided among the processes, through Lightning's ModelParallelStrategy.

Between two updates every process holds all weights, so that it draws, scores and ranks without waiting for the others, which
have other numbers of passes. Each update sums the gradients into the shards, moves those, and gathers the weights again.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import lightning
import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor

from mllmrec.errors import UserError
from mllmrec.models.policy import Policy
from mllmrec.phases.base import PhaseModule
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

    def divide(self, mesh: Any) -> None:
        """Divide the weights layer by layer.

        Args:
            mesh: of the processes.
        """
        from torch.distributed.fsdp import fully_shard

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


class Shards(ModelParallelStrategy):
    """Lightning's FSDP2 for a phase whose model is divided."""

    def setup(self, trainer: lightning.Trainer) -> None:
        """Give the optimiser the shards, then gather the weights."""
        super().setup(trainer)
        module: Any = self.lightning_module
        module.division.gather()


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
