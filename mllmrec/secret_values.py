"""What must not be written anywhere: settings that are called secrets, and values of such environment variables."""

from __future__ import annotations

import os
import re

_WORDS = ("API_KEY", "TOKEN", "SECRET", "PASSWORD")
_SHORTEST = 8  # characters; a shorter value would be blanked out of ordinary words
# Of a key, not of a word in it: max_new_tokens and item_tokens are settings.
_SECRET = re.compile(
    r"(^|[_-])(api[_-]?key|access[_-]?key|token|secret|password|credentials?|authorization)$", re.IGNORECASE
)


def is_called_secret(name: str) -> bool:
    """Whether a setting or an environment variable of this name holds a secret."""
    return _SECRET.search(name) is not None


def secret_values() -> list[tuple[str, str]]:
    """Names and values of the environment variables that are called secrets."""
    return [
        (name, value)
        for name, value in os.environ.items()
        if len(value) >= _SHORTEST and any(word in name.upper() for word in _WORDS)
    ]
