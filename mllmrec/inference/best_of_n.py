"""Best of n: of several drawn answers, the one with the best score."""

from __future__ import annotations

from mllmrec.inference.drawn import Drawn, by_score, columns_of
from mllmrec.inference.sampled import Sampled


class BestOfN(Sampled):
    """Ranks by the answer with the best score, then by what only the second best names, and so on.

    For ``score=self_certainty`` see Kang et al. 2025 (arXiv 2502.18581). No verifier knows the target, so the scores are the
    policy's own.
    """

    def order(self, drawn: Drawn) -> list[int]:
        """See `Sampled`."""
        return columns_of(drawn, by_score(drawn))
