"""Which of a phase's weights were kept: the best on held-out users, or the last."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch


@dataclass(frozen=True)
class Selection:
    """The choice between a phase's best and last weights, and the weights that were not kept."""

    kept: str  # best (on the held-out users), or last
    best_step: int  # optimiser steps before the best ranking; 0 is the policy that the phase began with
    last_step: int  # optimiser steps of the phase
    # The trainable weights that were not kept, by the model's own names; empty if the best are also the last.
    other: dict[str, torch.Tensor] = field(default_factory=dict)

    @property
    def not_kept(self) -> str:
        """Which weights ``other`` holds: last, or best."""
        return "last" if self.kept == "best" else "best"
