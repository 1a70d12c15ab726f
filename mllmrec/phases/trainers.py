"""Lightning's Trainer for a phase, in one process or in one of several."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import lightning
import torch
from lightning.pytorch.plugins.precision import HalfPrecision, Precision
from lightning.pytorch.strategies import DDPStrategy

from mllmrec.errors import UserError
from mllmrec.models.policy import Policy
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


def trainer_of(
    settings: Mapping[str, Any], folder: RunFolder, *, strategy: Any = None, **more: Any
) -> lightning.Trainer:
    """A Trainer for this process.

    Args:
        settings: the configuration's ``trainer``.
        folder: the run's folder.
        strategy: of a phase that is divided among processes; None: each process has all of it.
        more: arguments of Lightning's Trainer.
    """
    if the_ranks().several:
        strategy = strategy or SummedGradients(timeout=PATIENCE)
        trainer = make_trainer(settings, folder, strategy=strategy, among=environment(), **more)
    else:
        trainer = make_trainer(settings, folder, **more)
    keep_to_weights(trainer.precision_plugin)
    return trainer


def keep_to_weights(plugin: Precision) -> None:
    """Let ``trainer.precision=bf16-true`` change the type of weights alone.

    Lightning would convert the batch too, and refuses frozen dataclasses, which hold the examples; and it would make
    bfloat16 the type of every new tensor of a step, so rewards and advantages would keep three digits.
    """
    if isinstance(plugin, HalfPrecision):
        plugin.convert_input = lambda data: data  # type: ignore[method-assign]
        plugin.forward_context = nullcontext  # type: ignore[method-assign, assignment]


@contextmanager
def dividing(settings: Mapping[str, Any], policy: Policy, module: PhaseModule) -> Iterator[Any]:
    """Divide a phase among the processes in the block, as ``trainer.strategy`` says.

    The warm-up trains a small model, of which each process has all.

    Args:
        settings: the configuration's ``trainer``.
        policy: trains in the phase, and has its weights after the block.
        module: the phase.

    Yields:
        Lightning's strategy; None if each process has all of the phase.

    Raises:
        UserError: a library for it is missing or too old.
    """
    named = settings.get("strategy")
    if not the_ranks().several or module.section == "warmup" or named not in ("fsdp2", "deepspeed"):
        yield None
    elif named == "fsdp2":
        from mllmrec.phases.sharded import Shards, divided

        with divided(policy, module):
            yield Shards(settings["devices"], 1, timeout=PATIENCE)
    else:
        from mllmrec.phases.zero import Zero, ZeroDivision

        module.division = ZeroDivision(module)
        try:
            yield Zero(module)
        finally:
            module.division = None


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
