"""LLDS (Deng et al. 2025, arXiv 2512.04220): answers that are not bad must not become less likely."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from mllmrec.rl.losses import LossInputs, log_ratio
from mllmrec.rl.regularizers import Regularizer


class LikelihoodKept(Regularizer):
    """The nats by which each token became less likely, where A >= 0 and its whole answer became less likely.

    ``gate="segment"`` asks that of each segment of an answer instead, such as a line of a list (the paper's action level);
    tokens that belong to no segment are one more. The paper's coefficient is probably 0.1; its released script has 0.2.

    Without ``answers`` (LLDS-MA) the tokens of the answer itself count for the gate, but are not penalised: only those of the
    reasoning in front of it are.

    Nothing has become less likely in the first update of a rollout: the term acts only if ``grpo.iterations`` > 1.
    """

    name = "llds"

    def __init__(
        self, coefficient: float = 0.1, gate: Literal["answer", "segment"] = "answer", answers: bool = True
    ) -> None:
        if gate not in ("answer", "segment"):
            raise ValueError(f"gate={gate}: is none of answer, segment")
        self.coefficient, self.gate, self.answers = coefficient, gate, answers

    def weight(self, step: int) -> float:
        """The coefficient."""
        return self.coefficient

    def __call__(self, inputs: LossInputs) -> Tensor:
        """(r, T); an answer without segments is one segment."""
        fall = -log_ratio(inputs)
        if self.gate == "answer" or inputs.segments is None:
            total = fall.sum(1, keepdim=True)
        else:
            places = inputs.segments.masked_fill(~inputs.mask, -1) + 1
            sums = fall.new_zeros(len(fall), int(places.max()) + 1)
            total = sums.scatter_add(1, places, fall.detach()).gather(1, places)
        penalised = (total > 0) & (inputs.advantages >= 0)
        if not self.answers:
            # Without segments all tokens are the answer's.
            penalised = penalised & (inputs.segments < 0 if inputs.segments is not None else False)
        return torch.where(penalised, fall.relu(), 0.0)
