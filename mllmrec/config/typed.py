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
    """``key=value`` to paste into a shell, quoted if Hydra or the shell would otherwise read something else."""
    text = str(value)
    plain = re.fullmatch(r"[\w./+@-]+", text, re.ASCII) is not None
    return shlex.quote(f"{key}={text if plain else quoted(text)}")
