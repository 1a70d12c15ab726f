"""The kinds of training phases. Each says of itself all that others need to know: nothing else lists them.

A kind of your own is a `Kind` object in a module of yours; ``kind: package.module.NAME`` in ``method.phases`` finds it.
This module imports neither torch nor transformers, so that settings are checked at once.
"""

from __future__ import annotations

import pydoc
import sys
from dataclasses import dataclass
from typing import Literal

from mllmrec.config import phase_schema, schema
from mllmrec.errors import choices

# Groups of parts that a kind may read.
PARTS = (
    "reward",
    "shapers",
    "rollout",
    "advantage",
    "loss",
    "regularizers",
    "reference",
    "teacher",
    "sampler",
    "generator",
    "experience",
)
_ROLLOUTS = ("reward", "shapers", "rollout")


@dataclass(frozen=True)
class Kind:
    """A kind of training phase."""

    name: str  # also of the section that holds its settings
    title: str  # on the screen
    settings: type[schema.Section]  # types and bounds of its section
    fit: str  # path of the function that trains a phase (see `mllmrec.phases.fits`); imported when the phase begins
    data: Literal["sequences", "samples", "prompts", "questions"] = "prompts"  # what it trains on
    parts: tuple[str, ...] = ()  # which groups of parts it reads
    shown: tuple[str, ...] = ("loss",)  # logged values beside the progress bar
    shared: bool = False  # whether later jobs may take its weights over
    learns_drawn: bool = False  # whether it can learn from answers that an earlier phase drew
    supervised: bool = False  # whether it learns the true answers' tokens, as its loss_on says
    trains: bool = True  # whether it changes weights

    @property
    def rolls_out(self) -> bool:
        """Whether it draws completions."""
        return "rollout" in self.parts

    @property
    def can_draw_anew(self) -> bool:
        """Whether its prompts may list other negatives than SFT's."""
        return "new_negatives" in self.settings.model_fields


WARMUP = Kind(
    "warmup", "warm-up", phase_schema.Warmup, "mllmrec.phases.fits.fit_warmup", data="sequences", shared=True
)
SFT = Kind(
    "sft",
    "SFT",
    phase_schema.Sft,
    "mllmrec.phases.fits.fit_sft",
    data="samples",
    shared=True,
    supervised=True,
    learns_drawn=True,
)
SFT_MORE = Kind(
    "sft_more", "SFT continued", phase_schema.SftMore, "mllmrec.phases.fits.fit_sft_more", supervised=True
)
GRPO = Kind(
    "grpo",
    "GRPO",
    phase_schema.Grpo,
    "mllmrec.phases.fits.fit_grpo",
    parts=PARTS[:-1],
    shown=("reward", "kl"),
)
DPO = Kind(
    "dpo",
    "DPO",
    phase_schema.Dpo,
    "mllmrec.phases.fits.fit_dpo",
    shown=("loss", "rewards/accuracies"),
    learns_drawn=True,
)
EXPERT_ITERATION = Kind(
    "expert_iteration",
    "expert iteration",
    phase_schema.ExpertIteration,
    "mllmrec.phases.fits.fit_expert_iteration",
    parts=_ROLLOUTS,
    shown=("loss", "reward"),
)
POINTWISE = Kind(
    "pointwise", "pointwise", phase_schema.Pointwise, "mllmrec.phases.fits.fit_pointwise", data="questions"
)
TRAINING_FREE = Kind(
    "training_free",
    "training-free GRPO",
    phase_schema.TrainingFree,
    "mllmrec.phases.fits.fit_training_free",
    parts=(*_ROLLOUTS, "experience"),
    trains=False,
)
KINDS = {
    kind.name: kind for kind in (WARMUP, SFT, SFT_MORE, GRPO, DPO, EXPERT_ITERATION, POINTWISE, TRAINING_FREE)
}


def find_kind(name: str) -> Kind:
    """The kind of this name, or at this path outside of mllmrec.

    Raises:
        ValueError: there is none; the message names the choices.
    """
    if name in KINDS:
        return KINDS[name]
    # What Python itself brings is no kind, and importing it could already do something.
    of_python = name.split(".")[0] in sys.stdlib_module_names
    found = pydoc.locate(name) if "." in name and not of_python else None
    if not isinstance(found, Kind):
        raise ValueError(
            f"{name} is no kind of phase: choose {choices(list(KINDS))}, or give the path of a Kind of your own"
        )
    return found


def stage_title(stage: str) -> str:
    """The name of a phase, or of another measured point of a run, for display."""
    if stage in KINDS:
        return KINDS[stage].title
    return {"zero_shot": "zero-shot", "item_vectors": "item vectors"}.get(stage, stage)
