"""Review files with one JSON record per line → interactions."""

from __future__ import annotations

from array import array
from pathlib import Path

import numpy as np

from mllmrec.data.base import RawInteractions
from mllmrec.data.columns import MISSING, shortened
from mllmrec.data.text import RoundedNumber, read_json_lines
from mllmrec.errors import UserError


def read_reviews(
    path: Path, user: str, item: str, time: str, rating: str
) -> tuple[RawInteractions, dict[str, int]]:
    """Read the four named fields into interactions in file order, and item id → code by first occurrence.

    Raises:
        UserError: a field is missing or not a number where one is due (the message names the line), or the file is
            empty.
    """
    user_codes: dict[str, int] = {}
    item_codes: dict[str, int] = {}
    users, items, times, ratings = array("i"), array("i"), array("q"), array("f")
    for number, review in read_json_lines(path):
        try:
            user_id, item_id = _id(review[user]), _id(review[item])
            times.append(int(str(review[time])))
            ratings.append(float(str(review[rating])))
        except (KeyError, ValueError, OverflowError) as error:
            raise UserError(
                f"{path}:{number}: {user}, {item}, {time} or {rating} is missing or wrong "
                f"({type(error).__name__}: {error}): correct or remove the line"
            ) from error
        users.append(user_codes.setdefault(user_id, len(user_codes)))
        items.append(item_codes.setdefault(item_id, len(item_codes)))
    if not users:
        raise UserError(f"{path} has no reviews: fetch the file again")
    interactions = RawInteractions(
        user_ids=np.array(list(user_codes), dtype=object),
        users=np.frombuffer(users, dtype=np.int32),
        items=np.frombuffer(items, dtype=np.int32),
        timestamps=np.frombuffer(times, dtype=np.int64),
        ratings=np.frombuffer(ratings, dtype=np.float32),
    )
    return interactions, item_codes


def _id(value: object) -> str:
    plain = isinstance(value, str | int) and not isinstance(value, bool | RoundedNumber)
    text = str(value).strip()
    if not plain or text in ("", *MISSING):
        raise ValueError(f"{shortened(value)} is not an id")
    return text
