"""Updates whose loss or gradient is not finite: skipped, counted, kept for inspection, and too many of them end the run."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import lightning

from mllmrec.cache import atomic_path
from mllmrec.errors import UserError
from mllmrec.phases.base import PhaseModule

log = logging.getLogger(__name__)

MOST_FILES = 10  # of a phase; a batch of long completions takes megabytes


class SkippedUpdates(lightning.Callback):
    """Skips updates whose loss or gradient is not finite, so that one bad batch does not end a run of days.

    A skipped update leaves weights and optimiser as they were; the learning-rate schedule moves on. Each one is warned of,
    and its batch is written to ``skipped/<phase>-<update>.json`` in the run folder. From the first one on, ``skipped_steps`` in the
    log is their number so far. Nothing is logged of a phase that has none.
    """

    def __init__(self, folder: Path, most: int) -> None:
        """Take the limit.

        Args:
            folder: where the batches go; made when the first one is written.
            most: so many skipped updates in a row end the run.
        """
        self.folder, self.most = folder, most
        self.count = self.in_a_row = 0
        self._last = -1  # the last update that was skipped
        self._batch: Any = None  # the batch at work
        self._step = 0

    def on_fit_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Let the phase ask this callback what to do."""
        assert isinstance(pl_module, PhaseModule)
        pl_module.not_finite = partial(self._skip, pl_module)

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Hold the batch."""
        self._batch, self._step = batch, batch_idx

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Let the batch go, and log how many updates were skipped so far, if any were."""
        self._batch = None
        if self.count:
            assert isinstance(pl_module, PhaseModule)
            pl_module.log_step({"skipped_steps": float(self.count)})

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Say once more that updates were skipped, where the phase's results stand."""
        if self.count:
            log.warning(
                "%s: %d of %d updates were skipped, because loss or gradient was not finite; their batches are in %s",
                _name(pl_module),
                self.count,
                trainer.global_step,
                self.folder,
            )

    def state_dict(self) -> dict[str, Any]:
        """What a resumed phase has to know."""
        return {"count": self.count, "in_a_row": self.in_a_row, "last": self._last}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting."""
        self.count, self.in_a_row = state_dict["count"], state_dict["in_a_row"]
        self._last = state_dict["last"]

    def _skip(self, module: PhaseModule, loss: float, norm: float) -> None:
        """Write the batch of an update that is to be skipped, and warn.

        Raises:
            UserError: too many updates in a row were skipped.
        """
        update = module.update.count
        self.in_a_row = self.in_a_row + 1 if self._last == update - 1 else 1
        self.count, self._last = self.count + 1, update
        path = self.folder / f"{module.name}-{update}.json"
        kept = self.count <= MOST_FILES or self.in_a_row >= self.most
        if kept:
            _write(path, module, self._batch, self._step, {"update": update, "loss": loss, "grad_norm": norm})
        seen = f"loss {loss:g}, gradient norm {norm:g}"
        if self.in_a_row >= self.most:
            raise UserError(
                f"phase {module.name} diverged: {_updates(self.in_a_row)} had a loss or a gradient that is not finite "
                f"(warnings.skipped={self.most}), the last one at step {update}: {seen}; {_first_word(self.in_a_row)} skipped, "
                f"and the batches are in {self.folder}; {_advice(module, update, self.in_a_row)}"
            )
        log.warning(
            "%s: update %d was skipped, because it is not finite: %s%s. If more follow, %s",
            module.name,
            update,
            seen,
            f"; its batch is in {path}" if kept else "",
            _advice(module, update, self.in_a_row),
        )


def _updates(count: int) -> str:
    return "an update" if count == 1 else f"{count} updates in a row"


def _first_word(count: int) -> str:
    return "it was" if count == 1 else "all were"


def _advice(module: PhaseModule, update: int, in_a_row: int) -> str:
    lower = f"lower {module.section}.learning_rate (now {module.settings.learning_rate:g})"
    if update < in_a_row:
        # No update was finite, so the learning rate has had no part in it.
        return (
            "no update of the phase was finite, so look at the weights that it starts from, at the reward and at the "
            "regularizers, and set trainer.precision=32-true if it is another"
        )
    return f"{lower}, or {module.section}.max_grad_norm (now {module.settings.max_grad_norm:g})"


def _write(path: Path, module: PhaseModule, batch: Any, step: int, numbers: Mapping[str, Any]) -> None:
    """Write a batch as JSON: who is in it, the tokens that the model saw, and what it was to learn from them."""
    content = {"phase": module.name, "step": step, **numbers, **module.in_tokens(batch, step)}
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(_plain(content), allow_nan=False) + "\n", encoding="utf-8")


def _plain(value: Any) -> Any:
    """JSON values; a number that is not finite is a text such as "nan", which JSON has no number for."""
    if isinstance(value, Mapping):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _name(module: lightning.LightningModule) -> str:
    return str(getattr(module, "name", type(module).__name__))
