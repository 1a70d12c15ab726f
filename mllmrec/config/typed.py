"""Settings as users type them, quoted for Hydra and for the shell."""

from __future__ import annotations

import re
import shlex


def quoted(value: str) -> str:
    """``value`` quoted so that Hydra reads it unchanged, except for ``${...}``."""
    # Inside Hydra's quotes a backslash stands for itself, except before a quote.
    inner = re.sub(r"(\\*)('|$)", lambda found: found[1] * 2 + ("\\'" if found[2] else ""), value)
    return f"'{inner}'"


def typed(key: str, value: object) -> str:
    """``key=value`` to paste into a shell, quoted if Hydra or the shell would otherwise read something else.

    A list is typed as Hydra's list.
    """
    text = f"[{','.join(map(_unambiguous, value))}]" if isinstance(value, list) else _unambiguous(value)
    return shlex.quote(f"{key}={text}")


def _unambiguous(value: object) -> str:
    text = str(value)
    plain = re.fullmatch(r"[\w./+@-]+", text, re.ASCII) is not None
    return text if plain else quoted(text)
