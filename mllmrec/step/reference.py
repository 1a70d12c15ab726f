"""What the policy is compared with: the policy at the start of the phase, or one that follows it slowly."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from mllmrec.rl.parts import Part

if TYPE_CHECKING:
    from mllmrec.models.policy import Policy  # imports peft, which takes seconds


class Reference(Part):
    """A policy that scores completions beside the one that learns."""

    keeps_start: ClassVar[bool] = (
        False  # whether the policy must keep its weights from the start of the phase
    )

    def begin(self, policy: Policy) -> None:
        """Called once, when the phase's weights are in place."""

    @abstractmethod
    def model(self, policy: Policy) -> Any:
        """A context manager whose value is the reference in evaluation mode; use it without gradients."""

    def follow(self, policy: Policy, step: int) -> None:
        """Called after the updates of each step (from 0 on)."""


class Frozen(Reference):
    """The policy at the start of the phase."""

    keeps_start = True

    def model(self, policy: Policy) -> Any:
        """See `Reference`."""
        return policy.reference()


class Ema(Reference):
    """``reference <- decay * reference + (1 - decay) * policy`` every few steps (GRPO-CARE: 0.995 every 10 steps).

    With ``decay`` 0 it is the policy of the last multiple of ``every`` steps; TRL's synced reference is 0.4 every 512.
    """

    def __init__(self, decay: float = 0.995, every: int = 10) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay={decay}: must be at least 0 and below 1")
        if every < 1:
            raise ValueError(f"every={every}: must be a number of steps from 1 on")
        self.decay, self.every = decay, every
        self._weights: dict[str, Tensor] = {}

    def begin(self, policy: Policy) -> None:
        """Start from the policy as it is."""
        # In bfloat16 a step of 0.005 of the way would be lost to rounding.
        self._weights = {name: weight.detach().float().clone() for name, weight in _trained(policy)}

    @contextmanager
    def model(self, policy: Policy) -> Iterator[Any]:
        """See `Reference`."""
        training = policy.model.training
        policy.model.eval()
        own = [(name, weight, weight.data) for name, weight in _trained(policy)]
        try:
            # Storage is exchanged and not overwritten: a graph of the rollout's pass may still need the policy's numbers.
            for name, weight, data in own:
                weight.data = self._weights[name].to(data)
            yield policy.model
        finally:
            for _, weight, data in own:
                weight.data = data
            policy.model.train(training)

    @torch.no_grad()
    def follow(self, policy: Policy, step: int) -> None:
        """Move towards the policy every ``every`` steps."""
        if (step + 1) % self.every:
            return
        for name, weight in _trained(policy):
            self._weights[name].lerp_(weight.to(self._weights[name].dtype), 1 - self.decay)

    def state_dict(self) -> dict[str, Any]:
        """The reference's weights, by the model's names."""
        return dict(self._weights)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from saved weights, where the policy's are."""
        self._weights = {name: weight.to(self._weights[name].device) for name, weight in state.items()}


def _trained(policy: Policy) -> list[tuple[str, torch.nn.Parameter]]:
    return [(name, weight) for name, weight in policy.model.named_parameters() if weight.requires_grad]
