"""Training happens in one process on one device, whatever cluster the process was started on."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Any

import lightning
from lightning.pytorch.plugins.environments import LightningEnvironment

from mllmrec.run_folder import RunFolder

log = logging.getLogger(__name__)

# How many copies of a command were started together, and by what.
_STARTERS = {"SLURM_STEP_NUM_TASKS": "srun", "WORLD_SIZE": "torchrun"}


def make_trainer(settings: Mapping[str, Any], folder: RunFolder, **more: Any) -> lightning.Trainer:
    """A Trainer of this process alone.

    Lightning takes an allocation of several SLURM tasks, or torchrun, for several processes that train one model, and
    refuses one device for them; and of all but the first it drops what they log.

    Args:
        settings: the configuration's ``trainer``.
        folder: of the run.
        more: arguments of Lightning's Trainer.
    """
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
    """Say where a cluster started this command several times, which is rarely what was meant."""
    for variable, starter in _STARTERS.items():
        count = os.environ.get(variable, "")
        if count.isdecimal() and int(count) > 1:
            log.warning(
                "%s started this command %s times, and each is a run of its own on one device: they train no model "
                "together. For one run start it once (srun --ntasks=1)",
                starter,
                count,
            )
            return
