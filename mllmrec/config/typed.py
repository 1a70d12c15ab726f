"""Settings as one types them: quoted for Hydra, and for the shell."""

from __future__ import annotations

import re
import shlex


def quoted(value: str) -> str:
    """``value`` as Hydra reads it unchanged, but for ``${...}``."""
    # In Hydra's quotes a backslash stands for itself, unless it comes before a quote.
    inner = re.sub(r"(\\*)('|$)", lambda found: found[1] * 2 + ("\\'" if found[2] else ""), value)
    return f"'{inner}'"


def typed(key: str, value: object) -> str:
    """``key=value`` to be pasted into a shell, quoted where Hydra or the shell would read something else."""
    text = str(value)
    plain = re.fullmatch(r"[\w./+@-]+", text, re.ASCII) is not None
    return shlex.quote(f"{key}={text if plain else quoted(text)}")
