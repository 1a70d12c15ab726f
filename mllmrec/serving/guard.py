"""Who may ask a server of this machine that asks for no token: no page of another site."""

from __future__ import annotations

from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from mllmrec.config.servers import on_this_machine
from mllmrec.serving.problems import problem


class Local:
    """Refuses requests of other sites, and names of this machine that another site could point here.

    A site could let a browser ask a server of this machine, or give its own name this machine's address and then read the
    answers. The first shows in ``Origin`` and ``Sec-Fetch-Site``, the second in ``Host``.
    """

    def __init__(self, app: ASGIApp, pages: Collection[str], advice: str) -> None:
        """Set what is told and what may be linked to.

        Args:
            app: what is guarded.
            pages: paths that a link on another site may open, as they change nothing.
            advice: what to do instead of asking under another name.
        """
        self.app, self.pages, self.advice = app, pages, advice

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 403."""
        refusal = None
        if scope["type"] == "http":
            opens = scope["method"] in ("GET", "HEAD") and scope["path"] in self.pages
            refusal = refused(Headers(scope=scope), opens, self.advice)
        app = self.app if refusal is None else problem(403, refusal)
        await app(scope, receive, send)


def refused(headers: Headers, opens: bool, advice: str) -> str | None:
    """Why a request is refused, as a sentence; None if it is not.

    Args:
        headers: those of the request.
        opens: whether it opens a page that other sites may link to.
        advice: what to do instead of asking under another name.
    """
    host = headers.get("host", "")
    if not on_this_machine(_name(host)):
        return f"this server answers only at localhost: {advice}"
    linked = opens and headers.get("sec-fetch-mode") == "navigate"
    foreign = headers.get("sec-fetch-site", "none") not in ("none", "same-origin") and not linked
    if foreign or headers.get("origin", f"http://{host}") != f"http://{host}":
        return "another site asked for this: only programs and this server's own pages may ask"
    return None


def _name(host: str) -> str:
    """The name in a ``Host`` header, without the port; "" if it is malformed."""
    try:
        parts = urlsplit(f"//{host}")
        name = parts.hostname or ""
        _ = parts.port
    except ValueError:
        return ""
    return "" if parts.username is not None or parts.path or parts.query else name
