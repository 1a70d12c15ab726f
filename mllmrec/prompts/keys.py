"""What identifies a sample when its reasoning is looked up, and the interface that gives prompts their reasoning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

TRAINING = "train"  # only this split's prompts may carry reasoning that was chosen knowing the target


@dataclass(frozen=True)
class CotKey:
    """Everything that identifies a sample. Reasoning is joined by the whole key.

    A sample id is unique only within its split: in a published split, one user may have a sequence in each file.
    ``target_id`` is there to find recorded reasoning, never to make any.
    """

    user_id: str
    history_ids: tuple[str, ...]  # oldest first, as shown in the prompt
    target_id: str
    sample_id: str = ""
    split: str = TRAINING  # train, validation or test


class Reasoning(Protocol):
    """Gives the reasoning that a prompt carries."""

    def reasoning(self, key: CotKey) -> str | None:
        """The reasoning of one sample; None if there is none."""
        ...

    def closest(self, key: CotKey, candidates: Sequence[str]) -> list[int]:
        """The columns of the listed candidates that learnt reasoning names, in this order."""
        ...
