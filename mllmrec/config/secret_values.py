"""Values that must not be written anywhere: settings with the name of a secret, and such environment variables."""

from __future__ import annotations

import os
import re

_VARIABLE = re.compile(r"KEY$|API_?KEY|TOKEN|SECRET|PASSW|CREDENTIAL", re.IGNORECASE)
# Keys of services by their form, and a name with a password in an address.
_FORMS = re.compile(
    r"\b(?:sk-[\w-]{20,}|hf_[A-Za-z0-9]{30,}|gh[pousr]_[A-Za-z0-9]{30,}|AKIA[A-Z0-9]{16})(?![\w-])|://[^/\s:@]*:[^/\s@]+@"
)
_SHORTEST = 8  # characters; a shorter value might also be part of ordinary words
# Matches only at the end of a key, and no plural "tokens": max_new_tokens and item_tokens are settings.
_SECRET = re.compile(
    r"(^|[_-])(api[_-]?key|access[_-]?key|token|secret|password|credentials?|authorization)$", re.IGNORECASE
)


def is_called_secret(name: str) -> bool:
    """Whether a setting or an environment variable with this name holds a secret."""
    return _SECRET.search(name) is not None


def looks_secret(text: str) -> bool:
    """Whether a text has the form of a key, or holds an address with a password."""
    return _FORMS.search(text) is not None


def redacted(text: str) -> str:
    """``text`` with names in place of the values of secret environment variables, and without keys and passwords."""
    for name, value in secret_values():
        text = text.replace(value, f"<{name}>")
    return _FORMS.sub(lambda found: "://<redacted>@" if found[0].startswith("://") else "<redacted>", text)


def secret_values() -> list[tuple[str, str]]:
    """Names and values of environment variables with names of secrets."""
    return [
        (name, value)
        for name, value in os.environ.items()
        if len(value) >= _SHORTEST and _VARIABLE.search(name) is not None
    ]
