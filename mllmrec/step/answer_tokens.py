"""Which tokens of a free completion are its answer, and which are the reasoning in front."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

import torch
from torch import Tensor

from mllmrec.engine.batches import TokenBatch
from mllmrec.models.policy import Policy
from mllmrec.prompts.markup import THINK_CLOSE, THINK_OPEN


def answer_segments(policy: Policy, completions: TokenBatch, texts: Sequence[str]) -> Tensor:
    """(R, T) int: -1 for reasoning up to its closing tag and for padding, 0 for the answer.

    Only reasoning in front of the answer is told apart; a completion without any is all answer.

    Args:
        policy: decodes tokens.
        completions: (R, T).
        texts: the R completions, decoded.
    """
    segments = torch.where(completions.mask, 0, -1)
    for row, text in enumerate(texts):
        before, closing, _ = text.partition(THINK_CLOSE)
        if not closing or (before.partition(THINK_OPEN)[0].strip() and THINK_OPEN in before):
            continue

        def has_closed(count: int, row: int = row) -> bool:
            part = TokenBatch(completions.ids[row : row + 1, :count], completions.mask[row : row + 1, :count])
            return THINK_CLOSE in policy.decode(part)[0]

        end = bisect_left(range(len(completions.ids[row])), True, key=has_closed)
        segments[row, :end] = -1
    return segments
