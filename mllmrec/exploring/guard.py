"""What surrounds the pages: only a browser of this machine, and only these pages, may ask."""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mllmrec.serving.problems import problem

LOCAL_NAMES = ("localhost", "127.0.0.1", "[::1]")
# Texts of datasets and policies are shown on the pages, and they may hold anything. Nothing but the files of this package
# runs or styles, nothing is loaded from elsewhere, and no other site may frame the pages.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


class Guard:
    """Refuses requests of other sites, and names of this machine that another site could point here.

    A site could let a browser ask this server (it has no token), or give its own name this machine's address and then read
    the answers. The first shows in ``Origin`` and ``Sec-Fetch-Site``, the second in ``Host``.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on with these headers in its answer, or answer 403."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def headed(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        refusal = refused(Headers(scope=scope), scope["method"], scope["path"])
        app = self.app if refusal is None else problem(403, refusal)
        await app(scope, receive, headed)


def refused(headers: Headers, method: str, path: str) -> str | None:
    """Why a request is refused, as a sentence; None if it is not."""
    host = headers.get("host", "")
    if _name(host) not in LOCAL_NAMES:
        return "this page answers only at localhost: open the address that the command printed"
    origin = headers.get("origin")
    if origin is not None and origin != f"http://{host}":
        return "another site asked for this: open the page itself"
    site = headers.get("sec-fetch-site", "none")
    # A link on another site may open the page, which changes nothing.
    opens = method == "GET" and path == "/" and headers.get("sec-fetch-mode") == "navigate"
    if site not in ("none", "same-origin") and not opens:
        return "another site asked for this: open the page itself"
    return None


def _name(host: str) -> str:
    """The name in a ``Host`` header, without the port; "" if it is malformed."""
    try:
        parts = urlsplit(f"//{host}")
        name = parts.hostname or ""
        _ = parts.port
    except ValueError:
        return ""
    if parts.username is not None or parts.path or parts.query:
        return ""
    return f"[{name}]" if ":" in name else name
