"""``method.phases``: what is trained one after another, each phase with its name, its kind and settings of its own.

phases: [warmup, sft, grpo]
phases:
  - sft
  - grpo
  - {kind: sft, name: sft_2, answers_of: grpo, max_steps: 100}
  - {kind: grpo, name: grpo_2, reward: {hit_weight: 2.0}, samples: [0.5, 1.0]}
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from omegaconf import DictConfig, OmegaConf

from mllmrec.config.kinds import Kind, find_kind
from mllmrec.errors import choices

# Keys of a phase that every kind understands.
SAMPLES, DRAW, ANSWERS, LEAST = "samples", "draw", "answers_of", "least_reward"
_NAME = re.compile(r"[A-Za-z0-9_-]+")
_TAKEN = ("zero_shot", "item_vectors")
_OF_DATA = {
    SAMPLES: "from which share to which share of the training samples, in a seeded order, as in [0.0, 0.5]",
    DRAW: "a name: its prompts list negatives that are drawn anew under this name",
    ANSWERS: "the name of an earlier phase: learn the answers that it drew",
    LEAST: "the lowest reward of such an answer",
}


@dataclass(frozen=True)
class Phase:
    """One phase of a method."""

    name: str  # in logs, tables and folders
    kind: Kind
    given: Mapping[str, Any] = field(default_factory=dict)  # what it sets for itself

    def settings(self, cfg: Mapping[str, Any]) -> dict[str, Any]:
        """Resolved settings of the whole run as this phase sees them."""
        return {**cfg, **self._changed(cfg)}

    def config(self, cfg: DictConfig) -> DictConfig:
        """The run's configuration as this phase sees it."""
        if not self.given:
            return cfg
        plain: Any = OmegaConf.to_container(cfg, resolve=True)
        return OmegaConf.create(self.settings(plain))

    def own(self, key: str, default: Any = None) -> Any:
        """The value of one of the keys that every kind understands."""
        return self.given.get(key, default)

    def _changed(self, cfg: Mapping[str, Any]) -> dict[str, Any]:
        section = {key: value for key, value in self.given.items() if key in self.kind.settings.model_fields}
        changed: dict[str, Any] = {}
        if section:
            changed[self.kind.name] = {**(cfg.get(self.kind.name) or {}), **section}
        for group in self.kind.parts:
            if group in self.given:
                changed[group] = _merged(cfg.get(group), self.given[group])
        return changed


def _merged(before: Any, change: Any) -> Any:
    """A part with some settings changed; another class takes the part's place."""
    if not isinstance(change, Mapping) or not isinstance(before, Mapping) or "_target_" in change:
        return change
    return {**before, **change}


def phases_of(cfg: Mapping[str, Any]) -> list[Phase]:
    """The phases of a run's method.

    Args:
        cfg: resolved settings.

    Raises:
        ValueError: a phase is not understood; the message says which.
    """
    method = cfg["method"]
    listed = method.get("phases")
    # Runs of earlier versions name their phases under `stages`.
    older = method.get("stages")
    if listed is not None and older is not None:
        raise ValueError("method.stages is the earlier name of method.phases: set phases alone")
    if listed is None and older is None:
        raise ValueError("not set: name what is trained, as in [sft,grpo], or [] for nothing")
    return [_phase(entry) for entry in (older if listed is None else listed)]


def _phase(entry: Any) -> Phase:
    if isinstance(entry, str):
        kind = find_kind(entry)
        return Phase(kind.name, kind)
    if not isinstance(entry, Mapping) or not isinstance(entry.get("kind"), str):
        raise ValueError(f"{entry!r} is no phase: give a kind, as in sft or {{kind: sft, name: sft_2}}")
    kind = find_kind(entry["kind"])
    given = {str(key): value for key, value in entry.items() if key not in ("kind", "name")}
    return Phase(str(entry.get("name", kind.name)), kind, given)


def phase_faults(cfg: Mapping[str, Any]) -> list[str]:
    """What is wrong with ``method.phases``, all at once; values within bounds are the schema's affair."""
    try:
        phases = phases_of(cfg)
    except ValueError as error:
        return [f"method.phases: {error}"]
    except (KeyError, TypeError):
        return []
    faults = []
    names = [phase.name for phase in phases]
    for name in names:
        # It becomes a folder, a column and the name of an adapter, in which PEFT reads a dot as the end.
        if not _NAME.fullmatch(name):
            faults.append(f"method.phases: the name {name} must be made of letters, digits, _ and -")
        if name in _TAKEN or name.endswith(("_best", "_last")):
            faults.append(f"method.phases: {name} names other rankings of a run: give the phase another name")
    for name in sorted({name for name in names if names.count(name) > 1}):
        faults.append(f"method.phases: two phases are called {name}: give one of them another name")
    for place, phase in enumerate(phases):
        known = [*phase.kind.settings.model_fields, *phase.kind.parts, *_OF_DATA]
        for key in phase.given:
            if key not in known:
                faults.append(
                    f"method.phases, {phase.name}: {key} is no setting of {phase.kind.name}; choose {choices(known)}"
                )
        if phase.kind.data == "sequences" and place > 0:
            faults.append(
                f"method.phases, {phase.name}: {phase.kind.title} trains on item ids, so it comes first"
            )
        if phase.kind.data == "sequences" and phase.name != phase.kind.name:
            faults.append(
                f"method.phases, {phase.name}: {phase.kind.title} has no other name than {phase.kind.name}"
            )
        faults += _data_faults(phase, phases[:place])
    return faults


def _data_faults(phase: Phase, before: list[Phase]) -> list[str]:
    faults = []
    where = f"method.phases, {phase.name}"
    part = phase.own(SAMPLES)
    if part is not None and not (
        isinstance(part, list)
        and len(part) == 2
        and all(_is_share(one) for one in part)
        and part[0] < part[1]
    ):
        faults.append(f"{where}: samples={part!r}: must be {_OF_DATA[SAMPLES]}")
    source = phase.own(ANSWERS)
    drawn = [one.name for one in before if one.kind.rolls_out]
    if source is not None and source not in drawn:
        there = f"there are {choices(drawn)}" if drawn else "no phase before it draws answers"
        faults.append(f"{where}: answers_of={source}: must be {_OF_DATA[ANSWERS]}; {there}")
    if source is not None and not phase.kind.learns_drawn:
        faults.append(
            f"{where}: answers_of={source}: only a phase of kind sft or dpo learns the answers of another phase"
        )
    for key in (SAMPLES, DRAW):
        if phase.own(key) is None:
            continue
        if phase.kind.data not in ("samples", "prompts"):
            faults.append(
                f"{where}: {key} goes with phases that train on prompts, and {phase.kind.name} does not"
            )
        elif source is not None:
            faults.append(
                f"{where}: {key} with answers_of, whose answers bring their own prompts: leave one of them out"
            )
    if source is None and phase.own(LEAST) is not None:
        faults.append(f"{where}: least_reward goes with answers_of, the phase whose answers are learnt")
    return faults


def _is_share(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1
