"""Cuts titles and details of any length to what a prompt can show.

No reader would see more: prompts are cut or refused by their length. But all of the text would be tokenized first,
and a tokenizer needs hours to learn from a single word of a million letters.
"""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np

from mllmrec.data.base import Items
from mllmrec.data.columns import LONGEST_ID, shortened
from mllmrec.errors import UserError

log = logging.getLogger(__name__)

LONGEST_TEXT = 2000  # characters; the longest title of Amazon Beauty has 879


def bounded(items: Items) -> Items:
    """The items with titles and details cut to `LONGEST_TEXT` characters; a warning names the first ones cut.

    Raises:
        UserError: an id has more than `LONGEST_ID` characters.
    """
    for item in items.ids:
        if len(item) > LONGEST_ID:
            raise UserError(
                f"item {shortened(item)}: its id has {len(item)} characters: give one of at most {LONGEST_ID}, or name "
                "the right column"
            )
    titles, details = _cut(items.ids, items.titles, "titles"), _cut(items.ids, items.details, "details")
    if titles is items.titles and details is items.details:
        return items
    return replace(items, titles=titles, details=details)


def _cut(ids: np.ndarray, texts: np.ndarray, name: str) -> np.ndarray:
    long = [row for row, text in enumerate(texts) if len(text) > LONGEST_TEXT]
    if not long:
        return texts
    shown = ", ".join(f"item {ids[row]} ({len(texts[row])} characters)" for row in long[:3])
    log.warning(
        "%d of %d %s are cut to %d characters: %s%s",
        len(long),
        len(texts),
        name,
        LONGEST_TEXT,
        shown,
        f" and {len(long) - 3} more" if len(long) > 3 else "",
    )
    cut = texts.copy()
    for row in long:
        cut[row] = texts[row][:LONGEST_TEXT].rstrip()
    return cut
