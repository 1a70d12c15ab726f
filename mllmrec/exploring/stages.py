"""The rankings that a run's folder holds, and what their scores are."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from mllmrec.config.kinds import stage_title

Kind = Literal["baseline", "phase", "changed", "weights"]
Measure = Literal["probability", "score"]

NOT_SAVED = ("zero_shot", "warmup")  # evaluated, but a run does not keep these weights
_CHANGED = re.compile(r"(.+)_reasoning_(none|swapped|shuffled)")
_WEIGHTS = re.compile(r"(.+)_(best|last)")
_LOGARITHMS = ("likelihood", "constrained", "reasoned")  # ways to rank whose scores are log-probabilities
CHANGES = {"none": "without it", "swapped": "with another user's", "shuffled": "with its words shuffled"}


@dataclass(frozen=True)
class Stage:
    """One ranking of all users: by a baseline, after a phase, after a phase with changed reasoning, or with other weights."""

    name: str
    title: str
    kind: Kind
    phase: str | None = None  # the phase that it belongs to; None for baselines
    change: str | None = None  # what was done to the reasoning, in words
    measure: Measure = "score"
    saved: bool = False  # whether the folder keeps the weights that ranked


def stages_of(names: Sequence[str], metrics: Mapping[str, Any], weights: bool = True) -> list[Stage]:
    """The rankings ``names`` of a ``per_user.parquet``, in their order.

    Args:
        names: as `evaluation.records.stages_in` gives them.
        metrics: the content of metrics.json.
        weights: whether the folder has weights; one of mllmrec.evaluate has none.
    """
    phases = list(metrics["stages"])
    measure = measure_of(metrics["protocol"])
    trained_method = metrics["protocol"].get("ranking") != "score"
    found = []
    for name in names:
        changed, other = _CHANGED.fullmatch(name), _WEIGHTS.fullmatch(name)
        if name in phases:
            of_phase = measure if trained_method else "score"
            saved = weights and name not in NOT_SAVED
            found.append(Stage(name, stage_title(name), "phase", name, None, of_phase, saved))
        elif changed and changed[1] in phases:
            title = f"{stage_title(changed[1])} {CHANGES[changed[2]]}"
            found.append(Stage(name, title, "changed", changed[1], CHANGES[changed[2]], measure))
        elif other and other[1] in phases:
            title = f"{stage_title(other[1])}, {other[2]} weights"
            found.append(Stage(name, title, "weights", other[1], None, measure))
        else:
            found.append(Stage(name, stage_title(name), "baseline"))
    return found


def measure_of(protocol: Mapping[str, Any]) -> Measure:
    """Whether a language model's scores are log-probabilities of candidates, or something else."""
    corrected = {"calibrate", "normalise", "inference"} & set(protocol)
    plain = protocol.get("ranking") in _LOGARITHMS and not corrected
    return "probability" if plain else "score"


def shown_values(scores: Sequence[float] | np.ndarray, measure: Measure) -> list[float | None]:
    """What the page shows for (C,) scores: probabilities among the C items, which sum to 1, or the scores as they are.

    Scores that are not finite become None, since JSON has no such numbers; their probability is 0.
    """
    values = np.asarray(scores, dtype=np.float64)
    if measure == "probability" and len(values) and np.isfinite(values).any():
        weights = np.exp(values - values[np.isfinite(values)].max())
        values = np.where(np.isfinite(values), weights / weights[np.isfinite(values)].sum(), 0.0)
    return [float(value) if np.isfinite(value) else None for value in values]
