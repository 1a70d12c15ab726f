"""Values that must not be written anywhere: settings with the name of a secret, and such environment variables."""

from __future__ import annotations

import os
import re

_WORDS = ("API_KEY", "TOKEN", "SECRET", "PASSWORD")
_SHORTEST = 8  # characters; a shorter value might also be part of ordinary words
# Matches only at the end of a key, and no plural "tokens": max_new_tokens and item_tokens are settings.
_SECRET = re.compile(
    r"(^|[_-])(api[_-]?key|access[_-]?key|token|secret|password|credentials?|authorization)$", re.IGNORECASE
)


def is_called_secret(name: str) -> bool:
    """Whether a setting or an environment variable with this name holds a secret."""
    return _SECRET.search(name) is not None


def secret_values() -> list[tuple[str, str]]:
    """Names and values of environment variables with names of secrets."""
    return [
        (name, value)
        for name, value in os.environ.items()
        if len(value) >= _SHORTEST and any(word in name.upper() for word in _WORDS)
    ]
