"""Early stopping on a held-out measure. At the end the best weights are put back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning
import torch
from torch import Tensor, nn


class KeepBest(lightning.Callback):
    """Measures every few epochs and stops after several measures in a row without a new best.

    Args:
        network: the network with the weights to keep.
        measure: the held-out metric in the network's present state; larger is better.
        every: epochs between two measures.
        patience: training stops after this many measures without a new best.
    """

    def __init__(self, network: nn.Module, measure: Callable[[], float], every: int, patience: int) -> None:
        self.network, self.measure, self.every, self.patience = network, measure, every, patience
        self.best: float | None = None
        self._weights: dict[str, Tensor] = {}
        self._without_better = 0

    def state_dict(self) -> dict[str, Any]:
        """The best measure so far, and its weights."""
        return {"best": self.best, "weights": self._weights, "without_better": self._without_better}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        self.best, self._weights = state["best"], dict(state["weights"])
        self._without_better = state["without_better"]

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Measure if it is time."""
        if (trainer.current_epoch + 1) % self.every:
            return
        value = float(self.measure())
        pl_module.log("val/objective", value, prog_bar=True)
        if self.best is None or value > self.best:
            self.best, self._without_better = value, 0
            self._weights = {name: part.detach().clone() for name, part in self.network.state_dict().items()}
        else:
            self._without_better += 1
            trainer.should_stop = self._without_better >= self.patience

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Put the best weights back. If nothing was measured, the last weights stay."""
        if self._weights:
            with torch.no_grad():
                self.network.load_state_dict(self._weights)
