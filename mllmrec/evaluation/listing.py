"""Which of the candidates stand in the prompts that a policy is ranked by.

Training prompts list S candidates. A prompt that lists more has a length that the policy was never trained on, and it ranks
such a list far worse than lists of S, and than candidates that no prompt lists.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig

TRAINED, ALL, NONE = "trained", "all", "none"


@dataclass(frozen=True)
class Listing:
    """What one evaluation lists of C candidates."""

    all: bool  # one prompt lists them all
    list_size: int  # where it does not: the most that each of several prompts lists; 0 where none is listed
    trained: int  # S
    candidates: int | None  # C; None for the whole catalogue

    @classmethod
    def of(cls, settings: DictConfig, trained: int) -> Listing:
        """What ``eval.listing`` means for these numbers of candidates.

        The whole catalogue would take a prompt for every S of its items, for each user, and is not listed.

        Args:
            settings: the ``eval`` section; that of an earlier version has no ``listing``.
            trained: how many candidates a training prompt lists.
        """
        how = settings.get("listing", TRAINED)
        count = settings.num_negatives + 1 if isinstance(settings.num_negatives, int) else None
        if how == NONE or count is None:
            return cls(False, 0, trained, count)
        whole = (
            how == ALL or count <= trained or settings.ranking == "pointwise"
        )  # which asks about one at a time
        return cls(whole, 0 if whole else trained, trained, count)

    @property
    def untrained(self) -> bool:
        """Whether a prompt lists more candidates than any training prompt."""
        return self.all and self.candidates is not None and self.candidates > self.trained

    def describe(self) -> dict[str, Any]:
        """What the ``protocol`` of metrics.json says: ``listed`` in words, and how many each prompt lists at most."""
        if self.untrained:
            words = f"all, though training prompts list {self.trained}"
        elif self.all:
            words = ALL
        elif self.list_size:
            words = f"{self.list_size} at a time"
        else:
            words = NONE
        return {"listed": words, "num_listed": (self.candidates if self.all else self.list_size) or 0}
