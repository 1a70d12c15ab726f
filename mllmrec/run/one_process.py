"""Trainers, which keep to one process on one device unless told otherwise, on whatever cluster the process was started."""

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


# Settings of the job that Lightning is not given as they are.
_OF_THE_JOB = ("devices", "strategy")


def make_trainer(
    settings: Mapping[str, Any], folder: RunFolder, *, among: Any = None, **more: Any
) -> lightning.Trainer:
    """A Trainer for this process, which works alone unless it is said to be among others.

    In an allocation of several SLURM tasks, or under torchrun, Lightning assumes several processes that train one model. It
    then refuses a single device and drops the logs of all processes but the first.

    Args:
        settings: the configuration's ``trainer``.
        folder: the run's folder.
        among: Lightning's view of the processes that train one model, of which this is one; None: this one only.
        more: arguments of Lightning's Trainer.
    """
    import lightning
    from lightning.pytorch.plugins.environments import LightningEnvironment

    alone = among is None
    if alone:
        among = LightningEnvironment()
        among.set_global_rank(0)
    return lightning.Trainer(
        **{name: value for name, value in settings.items() if name not in _OF_THE_JOB},
        **more,
        devices=1 if alone else settings["devices"],
        plugins=[among],
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
