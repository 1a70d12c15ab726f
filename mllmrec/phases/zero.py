"""DeepSpeed's ZeRO: gradients are summed, and the optimiser's state is divided, through Lightning's DeepSpeedStrategy.

Every process keeps all weights, so that it draws, scores and ranks without waiting for the others. Gradients stay where they
arise until the last micro-batch of an update, since processes have other numbers of those, and are then summed once.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import lightning
import torch
from lightning.pytorch.strategies import DeepSpeedStrategy
from torch import Tensor

from mllmrec.errors.extras import extra
from mllmrec.phases.base import PhaseModule
from mllmrec.phases.whole_state import WholeState
from mllmrec.ranks import the_ranks
from mllmrec.run.processes import PATIENCE
from mllmrec.step.updates import Updates

_BUCKET = 50_000_000  # gradients in one message
MASTER = "master"  # a weight in single precision, beside the moments of its optimiser


class Zero(WholeState, DeepSpeedStrategy):
    """Lightning's DeepSpeed for a phase, on GPUs and, unlike Lightning's own, on CPUs."""

    def __init__(self, module: PhaseModule) -> None:
        """Take the phase.

        Args:
            module: its weights that train are known.

        Raises:
            UserError: DeepSpeed is not installed.
        """
        with extra("deepspeed", "trainer.strategy=deepspeed needs"):
            import deepspeed  # noqa: F401
        trained = sum(weight.numel() for weight in module.parameters() if weight.requires_grad)
        # A buffer of this size is allocated.
        super().__init__(
            overlap_comm=False,
            reduce_bucket_size=min(trained, _BUCKET),
            logging_batch_size_per_gpu=1,
            timeout=PATIENCE,
        )
        assert isinstance(self.config, dict)
        self.config["gradient_clipping"] = module.settings.max_grad_norm

    def setup_environment(self) -> None:
        """As for any strategy; Lightning's DeepSpeed refuses CPUs here."""
        super(DeepSpeedStrategy, self).setup_environment()
        # Batches hold texts.
        self.precision_plugin.convert_input = lambda data: data  # type: ignore[method-assign]

    def setup_distributed(self) -> None:
        """Let DeepSpeed use the connection that is there."""
        import deepspeed

        self.set_world_ranks()
        deepspeed.init_distributed(dist_init_required=False, verbose=False)

    def _format_config(self) -> None:
        super()._format_config()
        assert isinstance(self.config, dict)
        if "bf16" in self.config:
            self.config["bf16"]["check_grad_overflow"] = True  # leave out updates that are not finite

    def _setup_model_and_optimizer(
        self, model: Any, optimizer: Any, lr_scheduler: Any = None
    ) -> tuple[Any, Any]:
        """As Lightning's, which names no device that is a CPU."""
        import deepspeed

        engine, divided, _, _ = deepspeed.initialize(
            args=argparse.Namespace(device_rank=self.root_device.index or 0),
            config=self.config,
            model=model,
            model_parameters=[weight for weight in model.parameters() if weight.requires_grad],
            optimizer=optimizer,
            lr_scheduler=lr_scheduler,
            dist_init_required=False,
        )
        return engine, divided

    def training_step(self, *given: Any, **named: Any) -> Any:
        """The module's own: it makes all passes itself."""
        assert self.lightning_module is not None
        return self.lightning_module.training_step(*given, **named)

    def moments(self, optimizer: Any) -> list[dict[str, Tensor]]:
        """See `WholeState`."""
        zero: Any = self.optimizers[0]
        found = []
        for group, flat in zip(zero.bit16_groups, zero.single_partition_of_fp32_groups, strict=True):
            state = zero.optimizer.state.get(flat, {})
            for weight in group:
                own = {MASTER: weight.get_full_hp_param()}
                own |= {
                    name: weight.get_full_hp_param(name) if value.shape == flat.shape else value
                    for name, value in state.items()
                }
                found.append(own)
        return found

    def take_moments(self, moments: Sequence[Mapping[str, Tensor]]) -> None:
        """See `WholeState`."""
        zero: Any = self.optimizers[0]
        zero.refresh_fp32_params()  # from the checkpoint's weights
        given = iter(moments)
        for group, flat in zip(zero.bit16_groups, zero.single_partition_of_fp32_groups, strict=True):
            parts = [dict(next(given)) for _ in group]
            names = [name for name in parts[0] if name != MASTER]
            zero.optimizer.state[flat] = {
                name: torch.zeros_like(flat) if parts[0][name].dim() else parts[0][name].clone()
                for name in names
            }
            zero._hp_optimizer_states_linked = False
            zero._lazy_init_hp_params_optimizer_state()
            for weight, part in zip(group, parts, strict=True):
                for name, value in part.items():
                    if name == MASTER or value.dim():
                        weight.set_full_hp_param(value.to(flat.device), None if name == MASTER else name)

    def teardown(self) -> None:
        """Let go of the weights: the next phase may divide them anew."""
        if self.optimizers:
            zero: Any = self.optimizers[0]
            engine: Any = self.model
            engine.destroy()
            for group in zero.bit16_groups:
                for weight in group:
                    weight.data = weight.data.clone()
                    for name in [name for name in vars(weight) if name.startswith(("_", "grad_accum"))]:
                        delattr(weight, name)
            self.optimizers = []
        self.model = self.lightning_module
        super().teardown()


class ZeroUpdates(Updates):
    """Updates whose gradients DeepSpeed sums, scales down and uses."""

    def __init__(self, updates: Updates, engine: Any) -> None:
        self.__dict__.update(updates.__dict__)
        self.engine = engine

    def learning(self) -> list[Tensor]:
        """See `Updates`."""
        return [weight for group in self.engine.optimizer.bit16_groups for weight in group]

    def differentiate(self, shares: Iterable[Tensor], weights: Sequence[Tensor]) -> float:
        """See `Updates`."""
        zero, loss = self.engine.optimizer, 0.0
        with self.engine.coalesce_grad_reduction():
            for share in shares:
                # DeepSpeed takes the mean over processes.
                self.engine.backward(share * the_ranks().size, scale_wrt_gas=False)
                loss += float(share.detach())
            for weight in weights:
                # All processes have to bring the same weights.
                if zero.get_gradient_for_reduction(weight) is None:
                    name = "grad_accum" if zero.use_grad_accum_attribute else "grad"
                    setattr(weight, name, torch.zeros_like(weight, dtype=zero.gradient_accumulation_dtype))
        return loss

    def clip(self, weights: Sequence[Tensor]) -> float:
        """See `Updates`; they are scaled down in the optimiser's step."""
        norm = float(self.engine.optimizer.scaled_global_norm())
        return norm if norm >= 0 else float("nan")

    def leave_out(self) -> None:
        """See `Updates`."""
        # DeepSpeed leaves out what is not finite, and it may be the loss alone.
        for parts in self.engine.optimizer.averaged_gradients.values():
            for part in parts:
                part.fill_(float("nan"))
        self.optimizer.step()


class ZeroDivision:
    """Says that DeepSpeed divides the state of a phase's optimiser."""

    def __init__(self, module: PhaseModule) -> None:
        self.module = module

    def divide(self, module: lightning.LightningModule) -> None:
        """Nothing: DeepSpeed divides when training begins."""

    def updates(self, updates: Updates) -> Updates:
        """The same updates, by DeepSpeed."""
        return ZeroUpdates(updates, self.module.trainer.strategy.model)
