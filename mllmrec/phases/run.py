"""Trains a phase with a Lightning Trainer."""

from __future__ import annotations

import logging
import pydoc
import warnings
from collections.abc import Sequence
from typing import Any

import lightning
from lightning.pytorch.loggers import Logger
from torch.utils.data import DataLoader

from mllmrec.models.selection import Selection
from mllmrec.phases.base import PhaseModule
from mllmrec.phases.heldout import HeldOutMeasure, held_out_ranking
from mllmrec.phases.inputs import PhaseInputs, Trained
from mllmrec.phases.progress import PhaseProgress
from mllmrec.phases.trainers import begin_together, check_same, dividing, trainer_of
from mllmrec.phases.watch import watches
from mllmrec.randomness import seeded_globals
from mllmrec.run.progress import Steps
from mllmrec.screen.training_callbacks import TrainingProgress

# At every phase Lightning repeats advice that a user of this package cannot act on.
logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
warnings.filterwarnings(
    "ignore",
    message=".*(does not have many workers|resuming from a checkpoint that ended|isinstance\\(treespec|smaller than the logging interval).*",
)


def train_phase(inputs: PhaseInputs, loggers: Sequence[Logger], measure: HeldOutMeasure | None) -> Trained:
    """Train one phase.

    Args:
        inputs: the phase, its configuration, data and policy.
        loggers: this phase's loggers.
        measure: the held-out ranking, or None for never.
    """
    build: Any = pydoc.locate(inputs.phase.kind.fit)
    inputs.job.timer.begin()
    with seeded_globals(inputs.cfg.seed, "stage", inputs.phase.name):
        return build(inputs, loggers, measure)


def fit(
    module: PhaseModule,
    dataset: Any,
    batches: Any,
    inputs: PhaseInputs,
    loggers: Sequence[Logger],
    measure: HeldOutMeasure | None,
) -> Selection | None:
    """Train a phase on a dataset.

    Args:
        module: what happens in a step.
        dataset: gives the sample at each position.
        batches: the positions of each step, (steps, ...).
        inputs: the phase.
        loggers: this phase's loggers.
        measure: the held-out ranking, or None for never.

    Returns:
        The choice of held-out rankings; None if nobody was ranked.
    """
    cfg, phase = inputs.cfg, inputs.phase
    module.name, module.section = phase.name, phase.kind.name
    callbacks: list[lightning.Callback] = [
        inputs.job.timer,
        TrainingProgress(module.name, phase.kind.shown),
    ]
    callbacks += watches(module, cfg.warnings, inputs.job.folder)
    ranking = None
    if measure is not None and cfg.heldout.users:
        heldout = cfg.heldout
        ranking = held_out_ranking(
            measure,
            module,
            every=heldout.every,
            keep=heldout.keep,
            patience=heldout.patience,
            parted=cfg.warnings.inflation,
        )
        callbacks.append(ranking)
    progress = PhaseProgress(inputs, module)
    callbacks.append(progress)
    # Each batch is planned when its step begins, so that a curriculum has seen all steps before it.
    loader: DataLoader[Any] = DataLoader(dataset, batch_sampler=Steps(batches, progress), collate_fn=list)
    begin_together(module, cfg.seed)
    with dividing(cfg.trainer, inputs.job.policy, module) as strategy:
        trainer = trainer_of(
            cfg.trainer,
            inputs.job.folder,
            strategy=strategy,
            max_epochs=1,
            logger=list(loggers),
            callbacks=callbacks,
            use_distributed_sampler=False,
        )
        progress.fit(trainer, module, loader)
    check_same(module)
    return None if ranking is None else ranking.selection
