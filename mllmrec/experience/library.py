"""The experience of a run: short texts under keys, changed by the operations of Training-Free GRPO, kept in a file."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from mllmrec.cache import write_json
from mllmrec.errors import UserError

OPERATIONS = ("add", "modify", "delete", "keep")


@dataclass(frozen=True)
class Experience:
    """One short text."""

    key: str  # names it in operations
    text: str
    support: float  # what speaks for it; where there is no room for all, the best supported stay


@dataclass(frozen=True)
class Operation:
    """A change of the library."""

    kind: Literal["add", "modify", "delete", "keep"]
    key: str
    text: str = ""  # of add and modify
    support: float = 1.0  # from now on; delete needs none


class Library:
    """Experiences in the order of their support, best first; of equal ones the earlier first."""

    def __init__(self, experiences: Iterable[Experience] = ()) -> None:
        self._by_key = {one.key: one for one in experiences}

    def __len__(self) -> int:
        return len(self._by_key)

    def __iter__(self) -> Iterator[Experience]:
        return iter(sorted(self._by_key.values(), key=lambda one: -one.support))

    def get(self, key: str) -> Experience | None:
        """The experience under a key, or None."""
        return self._by_key.get(key)

    @property
    def texts(self) -> tuple[str, ...]:
        """The texts, best supported first."""
        return tuple(one.text for one in self)

    def copy(self) -> Library:
        """A library of its own with the same experiences."""
        return Library(self._by_key.values())

    def apply(self, operations: Sequence[Operation]) -> dict[str, int]:
        """Carry out operations in their order.

        An ``add`` under a known key counts as ``modify``. An operation about an unknown key is passed over.

        Returns:
            How many of each kind were carried out.
        """
        counts = dict.fromkeys(OPERATIONS, 0)
        for one in operations:
            known = self._by_key.get(one.key)
            kind = one.kind
            if known is not None and kind == "add":
                kind = "modify"
            if known is None and kind != "add":
                continue
            if kind == "delete":
                del self._by_key[one.key]
            else:
                text = known.text if known is not None and kind == "keep" else one.text
                self._by_key[one.key] = Experience(one.key, text, one.support)
            counts[kind] += 1
        return counts

    def trim(self, most: int, fits: Callable[[Sequence[str]], bool]) -> int:
        """Drop the least supported experiences until at most ``most`` are left and their texts fit.

        Returns:
            How many were dropped.
        """
        ranked = list(self)
        kept = min(most, len(ranked))
        while kept and not fits([one.text for one in ranked[:kept]]):
            kept -= 1
        for one in ranked[kept:]:
            del self._by_key[one.key]
        return len(ranked) - kept

    def write(self, path: Path) -> None:
        """Write the library to a JSON file: a list of objects with ``key``, ``text`` and ``support``."""
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {"experiences": [asdict(one) for one in self]})

    @classmethod
    def read(cls, path: Path) -> Library:
        """The library that `write` wrote, or that a person edited.

        Raises:
            UserError: the file is missing, or does not hold a library.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))["experiences"]
            found = [Experience(str(one["key"]), str(one["text"]), float(one["support"])) for one in content]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{path} holds no experiences ({error}): put a copy in its place, or run again"
            ) from error
        return cls(found)
