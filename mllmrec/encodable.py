"""Output on streams that are not UTF-8, such as a Windows redirect: what cannot be written has a plain stand-in."""

from __future__ import annotations

import codecs
import sys
import unicodedata

_NAME = "mllmrec.plain"
# A minus sign that became "?" would change a number.
_PLAIN = {
    "−": "-",
    "–": "-",
    "—": "-",
    "…": "...",
    "→": "->",
    "×": "x",
    "·": ".",
    "‘": "'",
    "’": "'",
    "“": '"',
    "”": '"',
    "±": "+/-",
    "≥": ">=",
    "≤": "<=",
    "†": "+",
}


def write_what_can_be_encoded() -> None:
    """Let standard output and error write a stand-in for what their encoding lacks, instead of failing."""
    codecs.register_error(_NAME, _stand_in)
    for stream in (sys.stdout, sys.stderr):
        # A stream that a notebook or a test put in its place takes any text.
        if hasattr(stream, "reconfigure") and not (stream.encoding or "").lower().startswith("utf"):
            stream.reconfigure(errors=_NAME)


def plain(text: str) -> str:
    """``text`` in ASCII: signs by their stand-ins, letters without accents, and ``?`` for what remains."""
    spelt = "".join(_PLAIN.get(letter, letter) for letter in text)
    return "".join(
        letter if letter.isascii() else "?"
        for letter in unicodedata.normalize("NFKD", spelt)
        if not unicodedata.combining(letter)
    )


def _stand_in(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return plain(error.object[error.start : error.end]), error.end
