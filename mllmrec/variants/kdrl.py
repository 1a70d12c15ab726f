"""KDRL (Xu et al. 2025, arXiv 2506.02208): the policy learns from rewards and from a teacher on its own answers."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from mllmrec.rl.batch import RolloutBatch
from mllmrec.rl.groups import Groups
from mllmrec.rl.kl import kl_estimate
from mllmrec.rl.losses import LossInputs
from mllmrec.rl.parts import TEACHER
from mllmrec.rl.regularizers import Regularizer
from mllmrec.step.speaker import Speaker
from mllmrec.step.teacher import Teacher


class TeacherKl(Regularizer):
    """``beta(step) * (l - teacher)² / 2`` per token: its gradient is that of KL(policy || teacher) on the policy's draws.

    beta falls linearly from ``beta`` to ``least_beta`` over ``steps`` and stays there. ``rows="wrong"`` keeps only rows
    with a reward below ``right``, the others have zeros.
    """

    name = "teacher_kl"
    needs = frozenset({TEACHER})

    def __init__(
        self,
        beta: float = 5e-3,
        least_beta: float = 1e-3,
        steps: int = 200,
        rows: Literal["all", "wrong"] = "all",
        right: float = 1.0,
    ) -> None:
        self.beta, self.least_beta, self.steps = beta, least_beta, steps
        self.rows, self.right = rows, right

    def weight(self, step: int) -> float:
        """beta(step)."""
        return self.beta + (self.least_beta - self.beta) * min(step / self.steps, 1.0)

    def __call__(self, inputs: LossInputs) -> Tensor:
        """(r, T)."""
        assert inputs.teacher is not None
        terms = kl_estimate(inputs.logprobs, inputs.teacher, "k2")
        return terms if self.rows == "all" else torch.where(self.wrong(inputs)[:, None], terms, 0.0)

    def wrong(self, inputs: LossInputs) -> Tensor:
        """(r,) bool: the rows to correct."""
        assert inputs.rewards is not None
        return inputs.rewards < self.right


class TeacherKlOfFailingGroups(TeacherKl):
    """`TeacherKl`; with ``rows="wrong"`` all rows of a group are corrected if one of them is wrong."""

    whole_groups = True

    def wrong(self, inputs: LossInputs) -> Tensor:
        """See `TeacherKl`."""
        assert inputs.group_of is not None
        groups = Groups(inputs.group_of.unique(return_inverse=True)[1])
        return groups.rows(groups.any(super().wrong(inputs)))


class Informed(Teacher):
    """The policy at the start of the phase, told the answer: ``hint`` stands before each example's prompt.

    It needs no second model. ``{answer}`` in the hint is the target as prompts show it, such as ``[ITEM_7] Red Lamp``.
    """

    keeps_start = True

    def __init__(self, hint: str = "The user chose {answer}.\n") -> None:
        if "{answer}" not in hint:
            raise ValueError(f"teacher.hint={hint!r} does not tell the answer: write {{answer}} in it")
        self.hint = hint

    def __call__(self, batch: RolloutBatch, speaker: Speaker, rows: Tensor | None = None) -> Tensor:
        """See `Teacher`."""
        with speaker.policy.reference() as model:
            return speaker.score(batch, prompts=self.prompts(batch), model=model, rows=rows)

    def prompts(self, batch: RolloutBatch) -> list[str]:
        """(P,) what the teacher reads in place of each prompt."""
        about = torch.zeros(len(batch.prompts.ids), dtype=torch.long)
        about[batch.prompt_of.cpu()] = batch.example_of
        shown = []
        for place in about.tolist():
            question = batch.questions[place]
            answer = question.shown(question.target_id)
            shown.append(self.hint.replace("{answer}", answer) + batch.examples[place].prompt)
        return shown
