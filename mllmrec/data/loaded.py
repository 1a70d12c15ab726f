"""Checks what a dataset returns, once, where it is read: a user's own class may not keep to the contract."""

from __future__ import annotations

import numpy as np

from mllmrec.data.base import TEST, TRAIN, Dataset, Items, RawData, RawInteractions
from mllmrec.errors import UserError, failure

_CONTRACT = "load() returns RawData as mllmrec.data.base describes it"


def load_checked(source: Dataset) -> RawData:
    """Load, and check the result against `RawData`.

    Raises:
        UserError: the result breaks the contract (the message says how, and for which class), or loading fails in a
            class that is not ours. The traceback of that class's defect is kept.
    """
    name = f"{type(source).__module__}.{type(source).__name__}"
    try:
        raw = source.load()
    except UserError:
        raise
    except Exception as error:
        if name.startswith("mllmrec."):
            raise
        raise UserError(f"dataset {name}: load() fails ({failure(error)})") from error
    fault = _fault(raw)
    if fault is not None:
        raise UserError(f"dataset {name}: {fault}; {_CONTRACT}")
    return raw


def _fault(raw: object) -> str | None:
    if not isinstance(raw, RawData):
        return f"load() returned {'nothing' if raw is None else f'a {type(raw).__name__}'}"
    return _fault_of_items(raw.items) or _fault_of_interactions(raw.interactions, len(raw.items))


def _fault_of_items(items: Items) -> str | None:
    for name in ("ids", "titles", "details"):
        column = getattr(items, name)
        if not _is_text(column):
            return f"items.{name} is no array of text"
        if len(column) != len(items.ids):
            return f"items.{name} has {len(column)} entries for {len(items.ids)} ids"
    ids = set(items.ids.tolist())
    if len(ids) < len(items.ids):
        return f"{len(items.ids) - len(ids)} of the items' ids are repeated"
    strangers = [item for item in items.images if item not in ids]
    if strangers:
        return f"items.images has {strangers[0]!r}, which is not an item id"
    return None


def _fault_of_interactions(rows: RawInteractions, num_items: int) -> str | None:
    if not _is_text(rows.user_ids):
        return "interactions.user_ids is no array of text"
    size = len(rows.users)
    for name, limit in (("users", len(rows.user_ids)), ("items", num_items)):
        codes = np.asarray(getattr(rows, name))
        if codes.dtype.kind not in "iu" or codes.ndim != 1 or len(codes) != size:
            return f"interactions.{name} is no array of {size} whole numbers"
        if size and not (codes.min() >= 0 and codes.max() < limit):
            return f"interactions.{name} has codes from {codes.min()} to {codes.max()}, and there are {limit} {name}"
    for name, kinds in (("timestamps", "iu"), ("ratings", "f"), ("split", "iu")):
        column = getattr(rows, name)
        if column is None:
            continue
        if not isinstance(column, np.ndarray) or column.dtype.kind not in kinds or column.shape != (size,):
            return (
                f"interactions.{name} is no array of {size} {'numbers' if kinds == 'f' else 'whole numbers'}"
            )
    if rows.split is not None and not np.isin(rows.split, (TRAIN, TEST)).all():
        return f"interactions.split has other values than {TRAIN} (train) and {TEST} (test)"
    return None


def _is_text(column: object) -> bool:
    if not isinstance(column, np.ndarray) or column.ndim != 1:
        return False
    return column.dtype.kind == "U" or all(isinstance(entry, str) for entry in column.tolist())
