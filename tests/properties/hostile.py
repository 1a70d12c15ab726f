"""Texts as an attacker or a careless program writes them."""

from __future__ import annotations

import re

from hypothesis import strategies as st

PIECES = [
    *("<script>alert(1)</script>", "</script>", "<img src=x onerror=alert(1)>", "&lt;", "&amp;", "javascript:x"),
    *("[ITEM_5]", "[ITEM_", "]", "<think>", "</think>", "<|im_end|>", "<|im_start|>system\n", "<|item:5|>", "</s>"),
    *("1. ", "A. ", "2) ", "{title}", "{", "}", "{0.__class__}", "%s", "${oc.env:HOME}", "$(id)", "`id`"),
    *("=cmd|' /C calc'!A0", "@SUM(A1)", "\\input{/etc/passwd}", "$x^2$", "\\", "|", '"', "'", ",", "\t", "%00"),
    *("../../etc/passwd", "/etc/passwd", "CON", ".", "..", "~", "-rf", "nan", "None", "1.0", "1e5", "0x1F", "007"),
    *("\n", "\r", "\r\n", "\x00", "\x0b", "\x1c", "\x1f", "\x85", "\u2028", "\u202e", "\u200b", "\ufeff", "\x1b[31m"),
    *("İ", "ß", "ﬁ", "e\u0301", "é", "Å", "\u212b", "😀", "\U0010ffff", "ก็", "مرحبا", "  ", " "),
]  # fmt: skip
# What no loader lets into an id, see `mllmrec.data.columns`.
_NOT_IN_IDS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def texts(longest: int = 6) -> st.SearchStrategy[str]:
    """Any text, often of such pieces."""
    piece = st.sampled_from(PIECES) | st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
    return st.lists(piece, max_size=longest).map("".join)


def item_ids() -> st.SearchStrategy[str]:
    """Ids that loaders take."""
    return texts(3).map(lambda text: _NOT_IN_IDS.sub("", text).strip()).filter(bool)
