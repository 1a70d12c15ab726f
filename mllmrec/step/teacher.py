"""The interface of teachers: they give log-probabilities for the policy's own completions."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from torch import Tensor

from mllmrec.rl.batch import RolloutBatch
from mllmrec.rl.parts import Part
from mllmrec.step.speaker import Speaker


class Teacher(Part):
    """Scores completions that the policy drew. It must share the policy's tokens."""

    keeps_start: ClassVar[bool] = (
        False  # whether the policy must keep its weights from the start of the phase
    )

    @abstractmethod
    def __call__(self, batch: RolloutBatch, speaker: Speaker, rows: Tensor | None = None) -> Tensor:
        """(R, T) log-probabilities of the learnt tokens; rows outside ``rows`` (None: all are wanted) may be zero."""
