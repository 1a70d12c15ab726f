"""No inference part: candidates are ranked by ``eval.ranking`` alone."""

from __future__ import annotations

from mllmrec.evaluation.ranking import Ranker
from mllmrec.inference.base import Inference, InferenceInputs


class PlainRanking(Inference):
    """Ranks by the scores of all candidates, or by the most likely list or text. Nothing is drawn but averaged reasoning."""

    draws = False

    def ranker(self, inputs: InferenceInputs) -> Ranker:
        """See `Inference`."""
        return inputs.plain()
