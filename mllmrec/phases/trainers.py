"""Lightning's Trainer for a phase, in one process or in one of several."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning
import torch
from lightning.pytorch.strategies import DDPStrategy

from mllmrec.errors import UserError
from mllmrec.phases.base import PhaseModule
from mllmrec.randomness import derive_seed
from mllmrec.ranks import the_ranks
from mllmrec.run.folder import RunFolder
from mllmrec.run.one_process import make_trainer
from mllmrec.run.processes import PATIENCE, environment


class SummedGradients(DDPStrategy):
    """Lightning's DDP without torch's reducer: `mllmrec.step.updates.Updates` sums the gradients, once for each update.

    The reducer would average them in every backward pass. A step has several passes, and not all processes equally many.
    """

    def configure_ddp(self) -> None:
        """Give all processes the first one's weights."""
        assert self.lightning_module is not None
        for value in [*self.lightning_module.parameters(), *self.lightning_module.buffers()]:
            torch.distributed.broadcast(value.data, 0)


def divides(settings: Mapping[str, Any], module: PhaseModule) -> bool:
    """Whether the phase's weights are divided among processes. The warm-up trains a small model, of which each has all."""
    return the_ranks().several and settings.get("strategy") == "fsdp2" and module.section != "warmup"


def trainer_of(
    settings: Mapping[str, Any], folder: RunFolder, *, shards: bool = False, **more: Any
) -> lightning.Trainer:
    """A Trainer for this process.

    Args:
        settings: the configuration's ``trainer``.
        folder: the run's folder.
        shards: whether the weights are divided among processes.
        more: arguments of Lightning's Trainer.
    """
    if not the_ranks().several:
        return make_trainer(settings, folder, **more)
    strategy: Any = SummedGradients(timeout=PATIENCE)
    if shards:
        from mllmrec.phases.sharded import Shards

        strategy = Shards(settings["devices"], 1, timeout=PATIENCE)
    return make_trainer(settings, folder, strategy=strategy, among=environment(), **more)


def begin_together(module: PhaseModule, seed: int) -> None:
    """Let dropout differ between processes. The warm-up draws its own dropout for all sequences, the same in each.

    Raises:
        UserError: there are several processes, and every one of them would learn the whole step.
    """
    ranks = the_ranks()
    if ranks.several and not module.divides_steps:
        raise UserError(
            f"trainer.devices={ranks.size} with phase {module.name}: {type(module).__name__} does not divide its steps among "
            "processes (divides_steps); set trainer.devices=1"
        )
    if ranks.several and module.section != "warmup":
        torch.manual_seed(derive_seed(seed, "stage", module.name, "process", ranks.rank))


def check_same(module: PhaseModule) -> None:
    """Refuse weights that differ between the processes.

    Raises:
        RuntimeError: they do.
    """
    if the_ranks().several:
        weights = [weight for weight in module.parameters() if weight.requires_grad]
        sums = [float(weight.detach().sum(dtype=torch.float64)) for weight in weights]
        the_ranks().check_same(f"weights after phase {module.name}", sums)
