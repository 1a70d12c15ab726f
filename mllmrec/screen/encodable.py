"""Output on streams that are not UTF-8, such as a Windows redirect: plain stand-ins replace other characters."""

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
    """Make standard output and error write stand-ins for characters that their encoding lacks, instead of failing."""
    codecs.register_error(_NAME, _stand_in)
    for stream in (sys.stdout, sys.stderr):
        # A notebook's or a test's replacement stream takes any text.
        if hasattr(stream, "reconfigure") and not (stream.encoding or "").lower().startswith("utf"):
            stream.reconfigure(errors=_NAME)


def plain(text: str) -> str:
    """``text`` in ASCII: stand-ins for signs, letters without accents, and ``?`` for everything else."""
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
