"""The markup that prompts and answers share, and the rules that keep foreign text from imitating it.

An item is named by its *label*, ``[ITEM_<id>]``, as in the released MLLMRec-R1 prompts. Its *mark*,
``<|item:<id>|>``, stands behind the title if the policy reads tokens of the item that are not text: its vector or its
image.
"""

from __future__ import annotations

import re
from urllib.parse import quote, unquote

THINK_OPEN, THINK_CLOSE = "<think>", "</think>"
LABEL_BEGINS = re.compile(r"(?=\[ITEM_)")
LINE_BEGINS = re.compile(r"(?=\n)")
# The group captures the encoded item id.
ITEM_MARK = re.compile(r"<\|item:([^|<>]*)\|>")

# Labels, marks, reasoning tags and the control tokens of every chat template contain these four characters.
_NEUTRAL = str.maketrans({"[": "(", "]": ")", "<": "‹", ">": "›"})


def item_label(item_id: str) -> str:
    """The label of an item. Unusual characters in an id are percent-encoded, so every id has a label of its own."""
    return f"[ITEM_{quote(item_id, safe='')}]"


def label_item(encoded: str) -> str:
    """The item id from the text between ``[ITEM_`` and ``]``, or from the text in an item mark."""
    return unquote(encoded)


def item_mark(item_id: str) -> str:
    """The mark of an item. Like its label, it belongs to this item alone."""
    return f"<|item:{quote(item_id, safe='')}|>"


def without_item_marks(text: str) -> str:
    """The text with item marks removed.

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
