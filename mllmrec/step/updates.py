"""One optimiser step from the shares of a loss, with checks that report a step that teaches nothing."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from mllmrec.errors import UserError
from mllmrec.ranks import the_ranks

log = logging.getLogger(__name__)

NotFinite = Callable[[float, float], None]  # gets loss and gradient norm


class Updates:
    """Makes updates with an optimiser and its schedule; works with and without Lightning."""

    def __init__(
        self,
        optimizer: Any,
        schedule: Any,
        *,
        name: str = "step",
        section: str = "",
        max_grad_norm: float = 1.0,
        backward: Callable[[Tensor], None] = Tensor.backward,
        weights: Sequence[tuple[str, Tensor]] = (),
        not_finite: NotFinite | None = None,
    ) -> None:
        """Take the optimiser.

        Args:
            optimizer: a torch optimiser, or Lightning's wrapper of one.
            schedule: its learning-rate schedule, which moves on with every update.
            name: of the phase, in messages.
            section: of its settings, in messages; empty: its name.
            max_grad_norm: gradients are scaled down to this norm.
            backward: adds the gradient of a share.
            weights: names for the weights, to say which adapters had no part in the first update.
            not_finite: called in place of the error if the loss or the gradient is not finite; if it returns, the update
                is skipped.
        """
        self.optimizer, self.schedule, self.name = optimizer, schedule, name
        self.section = section or name
        self.max_grad_norm, self.backward, self.weights = max_grad_norm, backward, weights
        self.not_finite = not_finite
        self.count = 0  # updates so far
        self.moved = False  # whether an update has changed a weight

    def __call__(self, shares: Iterable[Tensor]) -> dict[str, float]:
        """Make one step from the sum of the micro-batches' shares of the loss; returns the numbers to log.

        Of several processes each brings its own shares. All make the same step, from the sum over all of them.

        Raises:
            UserError: the loss or the gradient is not finite (the weights stay as they were) and nobody skips such updates,
                or the first update with a gradient and a learning rate changes no weight.
        """
        self.optimizer.zero_grad(set_to_none=True)
        weights = self.learning()
        loss = the_ranks().total({"loss": self.differentiate(shares, weights)})["loss"]
        norm = self.clip(weights)
        rate = self.schedule.get_last_lr()[0]
        if not (math.isfinite(loss) and math.isfinite(norm)):
            self._skip(loss, norm)
        elif self.moved or rate == 0 or norm == 0:
            self.optimizer.step()
        else:
            self._first_movement(weights, norm, rate)
        self.schedule.step()
        self.count += 1
        return {"loss": loss, "grad_norm": norm, "learning_rate": rate}

    def learning(self) -> list[Tensor]:
        """The weights that an update moves."""
        return [weight for group in self.optimizer.param_groups for weight in group["params"]]

    def differentiate(self, shares: Iterable[Tensor], weights: Sequence[Tensor]) -> float:
        """Give the weights the gradient of all processes' shares; returns this process's loss."""
        loss = 0.0
        for share in shares:
            self.backward(share)
            loss += float(share.detach())
        the_ranks().sum_gradients(weights)
        if all(weight.grad is None for weight in weights):
            # If there was nothing to learn, the gradient is zero; momentum and decay still act as in any other update.
            for weight in weights:
                weight.grad = torch.zeros_like(weight)
        return loss

    def clip(self, weights: Sequence[Tensor]) -> float:
        """Scale the gradients down to the largest norm; returns the norm that they had."""
        return float(_whole(torch.nn.utils.clip_grad_norm_(weights, self.max_grad_norm)))

    def _skip(self, loss: float, norm: float) -> None:
        """Leave the weights as they are, and the optimiser's moments too."""
        if self.not_finite is None:
            raise UserError(
                f"phase {self.name} diverged at step {self.count}: loss {loss}, gradient norm {norm}; "
                f"lower {self.section}.learning_rate (now {self._highest_rate()})"
            )
        self.not_finite(loss, norm)
        self.leave_out()

    def leave_out(self) -> None:
        """Make a step that changes nothing. Lightning counts it, so that the log's steps stay those of the plan."""
        self.optimizer.zero_grad(set_to_none=True)
        self.optimizer.step()

    def _highest_rate(self) -> float:
        return self.optimizer.param_groups[0].get("initial_lr", self.optimizer.param_groups[0]["lr"])

    def _first_movement(self, weights: list[Tensor], norm: float, rate: float) -> None:
        """Make the first step that must change a weight, check that it does, and name adapters without a gradient."""
        before = _sums(weights)
        self.optimizer.step()
        if torch.equal(before, _sums(weights)):
            raise UserError(
                f"phase {self.name}: an update with gradient norm {norm:.3g} and learning rate {rate:.3g} changed no "
                f"weight, because rounding to {weights[0].dtype} loses so small a step: raise {self.section}.learning_rate, "
                "or set trainer.precision=32-true and backbone.dtype=float32"
            )
        self.moved = True
        idle = [name for name, weight in self.weights if "lora_" in name and weight.grad is None]
        if idle:
            log.warning(
                "%s: %d adapter weights had no part in the loss of the first update; while that is so, they do not "
                "train: %s%s",
                self.name,
                len(idle),
                ", ".join(idle[:3]),
                ", ..." if len(idle) > 3 else "",
            )


def _sums(weights: Iterable[Tensor]) -> Tensor:
    """(W,) float64 sum of each weight: it shows any update without keeping copies of the weights."""
    return torch.stack([_whole(weight.detach().sum(dtype=torch.float64)) for weight in weights])


def _whole(value: Tensor) -> Tensor:
    """A number of weights that are divided among processes, as all of them see it; any other tensor as it is."""
    return value.full_tensor() if hasattr(value, "full_tensor") else value
