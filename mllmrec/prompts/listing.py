"""Which candidates the evaluation prompts list.

Training prompts list S candidates. The policy never saw a longer list in training. It ranks a longer list far worse than
lists of S, and also worse than candidates that no prompt lists.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig

TRAINED, ALL, NONE = "trained", "all", "none"


@dataclass(frozen=True)
class Listing:
    """How one evaluation lists C candidates."""

    list_size: (
        int | None
    )  # the most candidates that one of several prompts lists; 0: no list; None: one list of all
    trained: int  # S
    candidates: int | None  # C; None for the whole catalogue

    @classmethod
    def of(cls, settings: DictConfig, trained: int) -> Listing:
        """What ``eval.listing`` means for these numbers of candidates.

        The whole catalogue is never listed: it would take one prompt for every S items, for each user.

        Args:
            settings: the ``eval`` section; runs of earlier versions have no ``listing`` in it.
            trained: how many candidates a training prompt lists.
        """
        how = settings.get("listing", TRAINED)
        count = settings.num_negatives + 1 if isinstance(settings.num_negatives, int) else None
        # Pointwise questions show one candidate each, so their number may exceed any list's.
        if how == NONE or count is None or settings.ranking == "pointwise":
            return cls(0, trained, count)
        return cls(None if how == ALL or count <= trained else trained, trained, count)

    @property
    def untrained(self) -> bool:
        """Whether a prompt lists more candidates than any training prompt."""
        return self.list_size is None and self.candidates is not None and self.candidates > self.trained

    def describe(self) -> dict[str, Any]:
        """The part for the ``protocol`` of metrics.json: ``listed`` in words, and the most candidates in a prompt."""
        if self.untrained:
            words = f"all, though training prompts list {self.trained}"
        elif self.list_size is None:
            words = ALL
        elif self.list_size:
            words = f"{self.list_size} at a time"
        else:
            words = NONE
        count = self.candidates if self.list_size is None else self.list_size
        return {"listed": words, "num_listed": count or 0}
