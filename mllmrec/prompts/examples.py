"""Samples as the stages see them: prompt text, target and candidates, built when asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mllmrec.cot.base import CotKey, CotPolicy
from mllmrec.data.splits import Samples
from mllmrec.prompts.builder import PromptBuilder

CandidatesOf = Callable[[int], tuple[np.ndarray, int]]  # sample index -> (C,) item codes, the target's column


@dataclass(frozen=True)
class Example:
    """One sample ready for the model."""

    sample_id: str
    user_id: str
    prompt: str
    target: int  # item code
    candidates: np.ndarray  # (C,) item codes
    target_column: int
    has_reasoning: bool


class Examples:
    """The examples of one split, by position; nothing is kept, so a million samples cost nothing."""

    def __init__(
        self,
        samples: Samples,
        builder: PromptBuilder,
        candidates_of: CandidatesOf,
        *,
        history_length: int,
        list_candidates: bool = True,
        cot: CotPolicy | None = None,
        with_cot: np.ndarray | None = None,
    ) -> None:
        """Describe the examples.

        Args:
            samples: S of them.
            builder: writes the prompts.
            candidates_of: draws or looks up the candidates of a sample.
            history_length: items of history shown.
            list_candidates: whether the prompt lists them (not when the whole catalogue competes).
            cot: writes the reasoning of the samples chosen in ``with_cot``.
            with_cot: (S,) bool; None: no sample carries reasoning.
        """
        self.samples, self.builder, self.candidates_of = samples, builder, candidates_of
        self.history_length, self.list_candidates = history_length, list_candidates
        self.cot, self.with_cot = cot, with_cot

    def __len__(self) -> int:
        return len(self.samples)

    def cot_key(self, index: int) -> CotKey:
        """Whose reasoning a sample would carry: its user, the history shown, and its target."""
        samples, ids = self.samples, self.builder.ids
        history = samples.history(index, self.history_length)
        return CotKey(
            samples.user_id(index), tuple(ids[item] for item in history), ids[samples.target(index)]
        )

    def __getitem__(self, index: int) -> Example:
        samples = self.samples
        history = samples.history(index, self.history_length)
        candidates, column = self.candidates_of(index)
        target = samples.target(index)
        reasoning = None
        if self.cot is not None and self.with_cot is not None and self.with_cot[index]:
            reasoning = self.cot.reasoning(self.cot_key(index))
        prompt = self.builder.prompt(
            history.tolist(), candidates.tolist() if self.list_candidates else None, reasoning
        )
        return Example(
            sample_id=samples.sample_id(index),
            user_id=samples.user_id(index),
            prompt=prompt,
            target=target,
            candidates=candidates,
            target_column=column,
            has_reasoning=bool(reasoning),
        )
