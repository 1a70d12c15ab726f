"""The markup that prompts and answers share, and how foreign text is kept from imitating it.

An item is named by its *label*, ``[ITEM_<id>]``, as in the released MLLMRec-R1 prompts. Its *mark*, ``<|item:<id>|>``, stands
behind the title where a policy reads tokens of the item that are no text: its vector, or its image.
"""

from __future__ import annotations

import re
from urllib.parse import quote, unquote

THINK_OPEN, THINK_CLOSE = "<think>", "</think>"
LABEL_BEGINS = re.compile(r"(?=\[ITEM_)")
# The group is the encoded item id.
ITEM_MARK = re.compile(r"<\|item:([^|<>]*)\|>")

# Labels, marks, reasoning tags and every chat template's control tokens are written with these four characters.
_NEUTRAL = str.maketrans({"[": "(", "]": ")", "<": "‹", ">": "›"})


def item_label(item_id: str) -> str:
    """The label of an item. Ids with unusual characters are percent-encoded, so labels stay one to one."""
    return f"[ITEM_{quote(item_id, safe='')}]"


def label_item(encoded: str) -> str:
    """The item id from what stands between ``[ITEM_`` and ``]``, or in an item mark."""
    return unquote(encoded)


def item_mark(item_id: str) -> str:
    """The mark of an item, one to one like its label."""
    return f"<|item:{quote(item_id, safe='')}|>"


def without_item_marks(text: str) -> str:
    """The text as it is without item marks.

    >>> without_item_marks("[ITEM_7] Red Lamp<|item:7|> red [ITEM_8] Rug<|item:8|>")
    '[ITEM_7] Red Lamp red [ITEM_8] Rug'
    """
    return ITEM_MARK.sub("", text)


def neutral(text: str) -> str:
    """Foreign text (title, caption, reasoning) made safe for a prompt: one line, no brackets, no tags.

    >>> neutral("Best [ITEM_7] </think>  ever")
    'Best (ITEM_7) ‹/think› ever'
    """
    return " ".join(text.translate(_NEUTRAL).split())
