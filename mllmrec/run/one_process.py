"""Keeps training in one process on one device, on whatever cluster the process was started."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mllmrec.run.folder import RunFolder

if TYPE_CHECKING:
    import lightning

log = logging.getLogger(__name__)

# Environment variables that say how many copies of a command were started together, and by which launcher.
_STARTERS = {"SLURM_STEP_NUM_TASKS": "srun", "WORLD_SIZE": "torchrun"}


def make_trainer(settings: Mapping[str, Any], folder: RunFolder, **more: Any) -> lightning.Trainer:
    """A Trainer for this process only.

    In an allocation of several SLURM tasks, or under torchrun, Lightning assumes several processes that train one model. It
    then refuses a single device and drops the logs of all processes but the first.

    Args:
        settings: the configuration's ``trainer``.
        folder: the run's folder.
        more: arguments of Lightning's Trainer.
    """
    import lightning
    from lightning.pytorch.plugins.environments import LightningEnvironment

    alone = LightningEnvironment()
    alone.set_global_rank(0)
    return lightning.Trainer(
        **settings,
        **more,
        devices=1,
        plugins=[alone],
        enable_checkpointing=False,
        enable_model_summary=False,
        default_root_dir=str(folder.path),
    )


def warn_of_copies() -> None:
    """Warn if a cluster started this command several times, which is rarely intended."""
    for variable, starter in _STARTERS.items():
        count = os.environ.get(variable, "")
        if count.isdecimal() and int(count) > 1:
            log.warning(
                "%s started this command %s times. Each is a separate run on one device; they do not train one model "
                "together. For a single run start it once (srun --ntasks=1)",
                starter,
                count,
            )
            return
