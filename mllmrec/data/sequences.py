"""Files with one user per line: ``user<TAB>item item …``, oldest first."""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mllmrec.data.text import read_lines
from mllmrec.errors import UserError


@dataclass(frozen=True)
class Sequences:
    """U users in file order with their N items, stored flat."""

    user_ids: np.ndarray  # (U,) str, unique
    lines: np.ndarray  # (U,) int64: the line of each user, counted from 1 with blank lines included
    users: np.ndarray  # (N,) int32, index into user_ids
    items: np.ndarray  # (N,) int32, index into the item codes


def read_sequences(
    path: Path, item_codes: Mapping[str, int] | None = None, separator: str | None = "\t"
) -> tuple[Sequences, dict[str, int]]:
    """Read one user per line. Blank lines are skipped but count as lines.

    Args:
        path: the file.
        item_codes: the catalogue as id → code; None codes the items by first occurrence.
        separator: what stands between user and items; None: any white space.

    Returns:
        The sequences and the item codes that they use.

    Raises:
        UserError: a line has no separator, a user has two lines, an item is not in ``item_codes``, or the file is
            empty.
    """
    codes = {} if item_codes is None else dict(item_codes)
    seen: dict[str, int] = {}
    users, items = array("i"), array("i")
    for number, line in enumerate(read_lines(path), start=1):
        if not line.strip():
            continue
        user, *rest = line.split(separator, 1)
        user = user.strip()
        if not user or (separator is not None and not rest):
            raise UserError(
                f"{path}:{number}: expected user{separator!r}item item …, found {line.strip()[:60]!r}: correct the line"
            )
        if user in seen:
            raise UserError(
                f"{path}:{number}: user {user} is already on line {seen[user]}: join the two lines"
            )
        code = len(seen)
        seen[user] = number
        for item in rest[0].split() if rest else ():
            position = codes.get(item)
            if position is None:
                if item_codes is not None:
                    raise UserError(
                        f"{path}:{number}: item {item} of user {user} is not in the titles file: add it there or remove it here"
                    )
                position = codes[item] = len(codes)
            users.append(code)
            items.append(position)
    if not items:
        raise UserError(f"{path} has no interactions: give a file with lines of user and items")
    sequences = Sequences(
        user_ids=np.array(list(seen), dtype=object),
        lines=np.fromiter(seen.values(), dtype=np.int64, count=len(seen)),
        users=np.frombuffer(users, dtype=np.int32),
        items=np.frombuffer(items, dtype=np.int32),
    )
    return sequences, codes
