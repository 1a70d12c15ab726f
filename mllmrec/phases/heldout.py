"""Ranks a fixed sample of validation users while a phase trains, to log metrics, keep the best weights and warn."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import lightning
import torch

from mllmrec.models.selection import Selection

log = logging.getLogger(__name__)

_STATE = (
    *("best_step", "best", "_measured_at", "_weights", "_without_better"),
    *("_rewards", "_first", "_inflations"),
)


@dataclass(frozen=True)
class HeldOutMeasure:
    """Ranks the held-out users with the current policy."""

    metrics: Callable[[], dict[str, float]]  # metric name -> mean
    objective: Callable[[Mapping[str, float]], float]  # the one that decides; larger is better

    def __call__(self) -> dict[str, float]:
        """Metric name → mean."""
        return self.metrics()


class HeldOutRanking(lightning.Callback):
    """Logs ``val/<metric>`` of the current policy every so many optimiser steps and at the end.

    The phase ends with the weights of its best ranking or with its last ones; `selection` holds the others, so that both
    can be reported. Of equal rankings the earliest is the best.

    If the phase has a reward, two more numbers are logged. ``reward_normalised`` is the mean reward of the training prompts
    since the last ranking, on a scale from 0 (lowest possible) to 1 (highest). ``inflation`` says how much more this reward
    has risen than the held-out objective since the first such point:
    (reward - first reward) - (objective - first objective). A warning follows when inflation has grown for ``parted`` rankings
    in a row and the objective is below its best.
    """

    def __init__(
        self,
        measure: HeldOutMeasure,
        every: int,
        *,
        keep_best: bool = False,
        patience: int | None = None,
        bounds: tuple[float, float] | None = None,
        parted: int = 3,
    ) -> None:
        """Take the measure.

        Args:
            measure: ranks the held-out users.
            every: optimiser steps between two measures.
            keep_best: whether the phase ends with the weights of its best measure instead of the last.
            patience: end the phase after this many measures without a better one; None for never.
            bounds: lowest and highest possible reward; None for a phase without a reward.
            parted: rankings in a row with growing inflation before a warning.
        """
        self.measure, self.every = measure, every
        self.keep_best, self.patience, self.bounds, self.parted = keep_best, patience, bounds, parted
        self.best_step, self.best = -1, -float("inf")
        self.selection: Selection | None = None  # once the phase has ended
        self._measured_at = -1
        self._weights: dict[str, torch.Tensor] = {}
        self._without_better = 0
        self._rewards: list[float] = []
        self._first: tuple[float, float] | None = None
        self._inflations: list[float] = []

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Measure the policy at the start of the phase, unless an earlier attempt did."""
        if self._measured_at < 0:
            self._log(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        """All measures so far, and the best weights."""
        return {name: getattr(self, name) for name in _STATE}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        for name in _STATE:
            setattr(self, name, state[name])

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Measure when it is time."""
        if self.bounds is not None and "reward" in trainer.callback_metrics:
            self._rewards.append(float(trainer.callback_metrics["reward"]))
        if trainer.global_step - max(self._measured_at, 0) >= self.every:
            self._log(trainer, pl_module)
            if self.patience is not None and self._without_better >= self.patience:
                log.warning(
                    "%s: ended at step %d, %d rankings after the best one on the held-out users",
                    _name(pl_module),
                    trainer.global_step,
                    self._without_better,
                )
                trainer.should_stop = True

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Measure the policy at the end of the phase, and return to the best weights if the phase keeps those."""
        if self._measured_at != trainer.global_step:
            self._log(trainer, pl_module)
        last_step = trainer.global_step
        kept = "best" if self.keep_best else "last"
        if self.best_step == last_step:
            self.selection = Selection(kept, last_step, last_step)
        elif self.keep_best:
            log.info(
                "%s: kept the weights of step %d of %d, the best on the held-out users",
                _name(pl_module),
                self.best_step,
                last_step,
            )
            self.selection = Selection(kept, self.best_step, last_step, copied_weights(_model(pl_module)))
            with torch.no_grad():
                for name, weight in trainable_weights(_model(pl_module)):
                    weight.copy_(self._weights[name])
        else:
            self.selection = Selection(kept, self.best_step, last_step, self._weights)
        self._weights = {}

    def _log(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._measured_at = trainer.global_step
        measured = self.measure()
        objective = float(self.measure.objective(measured))
        metrics = {f"val/{name}": value for name, value in measured.items()}
        metrics |= self._beside_the_reward(objective, pl_module)
        if objective > self.best:
            self.best, self.best_step, self._without_better = objective, trainer.global_step, 0
            self._weights = copied_weights(_model(pl_module))
        else:
            self._without_better += 1
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=trainer.global_step)

    def _beside_the_reward(self, objective: float, module: lightning.LightningModule) -> dict[str, float]:
        if self.bounds is None or not self._rewards:
            return {}
        low, high = self.bounds
        if low == high:
            return {}
        reward = (sum(self._rewards) / len(self._rewards) - low) / (high - low)
        self._rewards = []
        self._first = self._first or (reward, objective)
        inflation = (reward - self._first[0]) - (objective - self._first[1])
        self._inflations.append(inflation)
        last = self._inflations[-self.parted - 1 :]
        grows = len(last) > self.parted and all(later > earlier for earlier, later in pairwise(last))
        if grows and objective < self.best:
            log.warning(
                "%s: reward inflation: over %d held-out rankings the training reward has risen by %.3f more than the "
                "rankings have, and the last ranking is below the best: see rollouts.parquet for what earns the reward, choose "
                "another one, lower %s.learning_rate, or end the phase with heldout.patience (warnings.inflation=%d)",
                _name(module),
                self.parted,
                last[-1] - last[0],
                getattr(module, "section", _name(module)),
                self.parted,
            )
        return {"reward_normalised": reward, "inflation": inflation}


def held_out_ranking(
    measure: HeldOutMeasure,
    module: lightning.LightningModule,
    *,
    every: int,
    keep: str,
    patience: int | None,
    parted: int = 3,
) -> HeldOutRanking:
    """The held-out callback of a phase.

    Args:
        measure: ranks the held-out users.
        module: the phase to train.
        every: optimiser steps between two measures.
        keep: ``best`` or ``last``.
        patience: measures without a better one before the end; None for never.
        parted: see `HeldOutRanking`.
    """
    bounds = getattr(module, "bounds", None)
    return HeldOutRanking(
        measure, every, keep_best=keep == "best", patience=patience, bounds=bounds, parted=parted
    )


def _name(module: lightning.LightningModule) -> str:
    return str(getattr(module, "name", type(module).__name__))


def _model(module: lightning.LightningModule) -> torch.nn.Module:
    model: Any = module.model
    return model


def trainable_weights(model: torch.nn.Module) -> list[tuple[str, torch.nn.Parameter]]:
    """The weights that the current phase trains, with the model's own names for them."""
    return [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]


def copied_weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Copies of `trainable_weights`."""
    return {name: weight.detach().clone() for name, weight in trainable_weights(model)}
