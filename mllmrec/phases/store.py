"""Keeps trained phases for other jobs, so that runs train the phases they have in common only once.

The key of a phase is everything that made its weights (`mllmrec.phases.key`). The warm-up reads neither texts nor prompts,
only item sequences, so experiments on prompts, candidates and reasoning share it if their policies start alike.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import torch
from omegaconf import DictConfig
from safetensors.torch import load_file, save_file

from mllmrec.config.phases import Phase
from mllmrec.errors import UserError
from mllmrec.models.policy import Policy
from mllmrec.models.selection import Selection
from mllmrec.run.folder import RunFolder
from mllmrec.store.trained_once import alone, hand_over, is_whole, keeping, place_of

_WEIGHTS = "weights.safetensors"
# The choice of held-out rankings, and the weights that were not kept.
_SELECTION, _OTHER = "selection.json", "other.safetensors"


class Key(Protocol):
    """Says what made the policy after some phases; `mllmrec.phases.key.PhaseKey` does so for all jobs."""

    def keeps(self, phases: Sequence[Phase]) -> bool:
        """Whether the policy after ``phases`` is worth keeping, and it is known what made it."""

    def parts(self, phases: Sequence[Phase]) -> dict[str, Any]:
        """Everything that made the weights after ``phases``, as JSON values by name."""


class OneJob:
    """The key of a store that only attempts at one job use.

    Args:
        job: fingerprint of its settings.
    """

    def __init__(self, job: str) -> None:
        self.job = job

    def keeps(self, phases: Sequence[Phase]) -> bool:
        """See `Key`."""
        return phases[-1].kind.trains

    def parts(self, phases: Sequence[Phase]) -> dict[str, Any]:
        """See `Key`."""
        return {"job": self.job, "stages": [phase.name for phase in phases]}


class PhaseStore:
    """The folder of trained phases of one data set under one configuration."""

    def __init__(self, folder: Path, key: Key) -> None:
        """Take the folder.

        Args:
            folder: the store's folder.
            key: computes the key of the policy after each phase.
        """
        self.folder, self.key = folder, key

    def keeps(self, phases: Sequence[Phase]) -> bool:
        """Whether the policy after ``phases`` is kept."""
        return self.key.keeps(phases)

    def place(self, phases: Sequence[Phase]) -> Path:
        """Where the policy after ``phases`` is kept, whether it is there or not."""
        return place_of(self.folder, self.key.parts(phases))

    def alone(self, phases: Sequence[Phase]) -> AbstractContextManager[None]:
        """Keep other jobs from training the same phases until the block ends."""
        return alone(self.place(phases), phases[-1].name)

    def restore(
        self, phases: Sequence[Phase], cfg: DictConfig, policy: Policy, folder: RunFolder
    ) -> tuple[Selection | None, bool]:
        """Restore policy, log and cost as they were after ``phases``; call it in a block of `alone`.

        Args:
            phases: phases in order; the policy has already been through all but the last.
            cfg: the run's configuration.
            policy: the policy after the phase before the last, or as the backbone built it.
            folder: the run's folder; its log holds no later phases.

        Returns:
            The choice of held-out rankings in the last phase, and whether the phase was stored at all.

        Raises:
            UserError: the stored phase is complete but belongs to another policy.
        """
        last = phases[-1]
        place = self.place(phases)
        if not is_whole(place, self.key.parts(phases), last.name):
            return None, False
        if last.kind.data != "sequences":
            policy.begin_phase(last.name, last.config(cfg)[last.kind.name].lora, keep_reference=False)
        _take(place / _WEIGHTS, policy.changed_weights())
        hand_over(place, folder)
        return _read_selection(place, policy), True

    def keep(
        self, phases: Sequence[Phase], policy: Policy, folder: RunFolder, selection: Selection | None
    ) -> None:
        """Store the policy as it is now, after ``phases``, and the weights that the last of these phases did not keep."""
        weights = {
            name: weight.detach().cpu().contiguous() for name, weight in policy.changed_weights().items()
        }
        names = [phase.name for phase in phases]
        with keeping(self.place(phases), self.key.parts(phases), folder, names) as place:
            save_file(weights, place / _WEIGHTS)
            if selection is not None:
                _write_selection(place, selection)


def _take(path: Path, weights: Mapping[str, torch.Tensor]) -> None:
    """Copy a file's values into ``weights``; the file must hold exactly these weights."""
    stored = load_file(path)
    shapes = [{name: tuple(part.shape) for name, part in parts.items()} for parts in (stored, weights)]
    if shapes[0] != shapes[1]:
        differ = sorted(name for name in {*stored, *weights} if shapes[0].get(name) != shapes[1].get(name))
        raise UserError(
            f"{path} holds weights of another policy ({differ[0]} and {len(differ) - 1} more differ): delete "
            f"{path.parent} and the phase is trained again"
        )
    with torch.no_grad():
        for name, weight in weights.items():
            weight.copy_(stored[name])


def _write_selection(place: Path, selection: Selection) -> None:
    steps = {"kept": selection.kept, "best_step": selection.best_step, "last_step": selection.last_step}
    (place / _SELECTION).write_text(json.dumps(steps), encoding="utf-8")
    save_file({name: weight.cpu().contiguous() for name, weight in selection.other.items()}, place / _OTHER)


def _read_selection(place: Path, policy: Policy) -> Selection | None:
    if not (place / _SELECTION).is_file():
        return None
    steps = json.loads((place / _SELECTION).read_text(encoding="utf-8"))
    return Selection(**steps, other=load_file(place / _OTHER, device=str(policy.device)))
