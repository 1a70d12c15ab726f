"""Where servers are."""

from __future__ import annotations

import ipaddress


def on_this_machine(host: str) -> bool:
    """Whether a host's name or address is this machine's own and no network carries what is sent there."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
