"""What surrounds the endpoints: counting, the token, and reading a body within its limits."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import Collection

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mllmrec.serving.metrics import Metrics
from mllmrec.serving.problems import problem

NO_ANSWER = 499  # counted for clients that hung up, as nginx does


class Counted:
    """Counts every request by its endpoint and status, and measures it."""

    def __init__(self, app: ASGIApp, metrics: Metrics, endpoints: Collection[str]) -> None:
        self.app, self.metrics, self.endpoints = app, metrics, endpoints

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status, start = NO_ANSWER, time.perf_counter()

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, counted)
        except Exception:
            status = 500  # the answer is written further out
            raise
        finally:
            # Any path may be asked for, and each name would be a row of its own.
            endpoint = scope["path"] if scope["path"] in self.endpoints else "other"
            self.metrics.answered(endpoint, status, time.perf_counter() - start)


class Guarded:
    """Asks for a bearer token, except on open paths."""

    def __init__(self, app: ASGIApp, token: str | None, open_paths: Collection[str]) -> None:
        self.app, self.open_paths = app, open_paths
        self._expected = None if token is None else f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 401."""
        if scope["type"] == "http" and self._expected is not None and scope["path"] not in self.open_paths:
            given = dict(scope["headers"]).get(b"authorization", b"")
            if not hmac.compare_digest(given, self._expected):
                refusal = problem(401, "this service asks for its token: send Authorization: Bearer TOKEN")
                refusal.headers["WWW-Authenticate"] = "Bearer"
                await refusal(scope, receive, send)
                return
        await self.app(scope, receive, send)


class Bounded:
    """Reads the body before the endpoint does, up to a size and for a time."""

    def __init__(self, app: ASGIApp, size: int, seconds: float) -> None:
        self.app, self.size, self.seconds = app, size, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on with its body, or answer 413 or 408; for a client that hangs up, do nothing."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        body: bytes | None = None
        if not declared.isdigit() or int(declared) <= self.size:
            try:
                body = await asyncio.wait_for(self._read(receive), self.seconds)
            except asyncio.TimeoutError:
                await _closing(problem(408, "the request's body did not arrive in time"))(
                    scope, receive, send
                )
                return
            except ConnectionError:
                return
        if body is None:
            refusal = problem(413, f"the request's body is larger than {self.size / 1024:,.0f} KiB")
            await _closing(refusal)(scope, receive, send)
            return
        read: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def again() -> Message:
            return read.pop() if read else await receive()

        await self.app(scope, again, send)

    async def _read(self, receive: Receive) -> bytes | None:
        """The body; None if it is too large."""
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ConnectionError
            body += message.get("body", b"")
            if len(body) > self.size:
                return None
            if not message.get("more_body", False):
                return bytes(body)


def _closing(response: JSONResponse) -> JSONResponse:
    response.headers["Connection"] = "close"  # the rest of the body is not read
    return response
