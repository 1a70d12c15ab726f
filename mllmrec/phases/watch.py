"""The callbacks that notice when training goes wrong, with the thresholds of ``warnings``."""

from __future__ import annotations

import lightning
from omegaconf import DictConfig

from mllmrec.phases.base import PhaseModule
from mllmrec.phases.grpo import RolloutPhase
from mllmrec.phases.rollout_warnings import RolloutWarnings
from mllmrec.phases.skipped_updates import SkippedUpdates
from mllmrec.phases.unmoved_weights import UnmovedWeights
from mllmrec.run.folder import RunFolder


def watches(module: PhaseModule, limits: DictConfig, folder: RunFolder) -> list[lightning.Callback]:
    """The callbacks for a phase.

    Args:
        module: the phase.
        limits: the configuration's ``warnings``.
        folder: the run's folder.
    """
    found: list[lightning.Callback] = [
        SkippedUpdates(folder.skipped_path, limits.skipped),
        UnmovedWeights(limits.steps, limits.unmoved),
    ]
    if isinstance(module, RolloutPhase):
        found.append(
            RolloutWarnings(
                limits.steps,
                limits.kl,
                limits.invalid,
                equal=limits.equal,
                entropy=limits.entropy,
                length=limits.length,
            )
        )
    return found
