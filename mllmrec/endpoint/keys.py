"""Reads the key of a server, and keeps it out of settings, messages and logs."""

from __future__ import annotations

import os
import re
from urllib.parse import urlsplit

from mllmrec.config.servers import on_this_machine
from mllmrec.errors import UserError

_NO_KEY = "no-key-needed"  # the openai library requires some key


def check_address(base_url: str, api_key_env: str) -> None:
    """Refuse a server address or variable name that is malformed or holds a secret.

    Raises:
        UserError: the value is refused. The message does not show it, because it may be the secret.
    """
    # Lower case is refused because keys have it: a key given in place of a name would end up in the saved settings.
    if not re.fullmatch("[A-Z_][A-Z0-9_]*", api_key_env):
        raise UserError(
            "api_key_env is the name of an environment variable, in capitals: never give the key itself"
        )
    address = urlsplit(base_url)
    if address.scheme not in ("http", "https") or not address.hostname or address.query or "@" in base_url:
        raise UserError(
            "base_url must look like https://host/v1, without user, password or query: the key is read from the "
            f"environment variable {api_key_env}"
        )


def read_key(base_url: str, api_key_env: str) -> str:
    """The key in the environment variable ``api_key_env``. A server on this machine needs none and gets a fixed word.

    Raises:
        UserError: there is no key, or it cannot be sent.
    """
    key = os.environ.get(api_key_env, "").strip()
    if not key and on_this_machine(urlsplit(base_url).hostname or ""):
        return _NO_KEY
    if not key:
        raise UserError(
            f"{api_key_env} is not set: export the key of {base_url} under that name (any word for a server that "
            "wants none), or name another variable by api_key_env"
        )
    # Such a key cannot be sent as a header, and the library's error would show the key.
    if not key.isascii() or not key.isprintable() or " " in key:
        raise UserError(
            f"{api_key_env} holds blanks, line breaks or other characters that no key has: set it again"
        )
    return key
