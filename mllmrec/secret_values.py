"""What must not be written anywhere: the values of environment variables that are called secrets."""

from __future__ import annotations

import os

_WORDS = ("API_KEY", "TOKEN", "SECRET", "PASSWORD")
_SHORTEST = 8  # characters; a shorter value would be blanked out of ordinary words


def secret_values() -> list[tuple[str, str]]:
    """Names and values of the environment variables that are called secrets."""
    return [
        (name, value)
        for name, value in os.environ.items()
        if len(value) >= _SHORTEST and any(word in name.upper() for word in _WORDS)
    ]
