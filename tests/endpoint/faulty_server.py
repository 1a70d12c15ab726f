"""A chat server on loopback that misbehaves by plan, and counts the answers that it would bill."""

from __future__ import annotations

import hashlib
import json
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

WITH_TEXT = ("plain", "pieces", "padded", "two choices", "sent twice", "same for all", "other language")
WITHOUT_TEXT = {
    "empty": "empty answer",
    "refusal": "refused by the model",
    "filter": "content filter",
}
PASSING = ("429", "500", "reset", "reset halfway", "stall", "half json", "cut")
SAME = "Signals: red in most. Preference: mostly red. Look for: red and blue lamps with stripes again."
OTHER = "Signals: 红色的灯很多。 Preference: 主要喜欢红色。 Look for: 有条纹的红色和蓝色的灯。"


def mark(text: str) -> str:
    """A word that only the answer to this text contains."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def written(text: str, kind: str) -> str:
    """What a model says to a text; "" for the kinds of answers that say nothing."""
    if kind == "same for all":
        return SAME
    if kind == "other language":
        return f"{OTHER} {mark(text)[:2]}"
    if kind in WITHOUT_TEXT:
        return ""
    return f"Signals: {mark(text)} in most. Preference: mostly red, lately blue. Look for: red lamps with stripes."


def tokens(text: str) -> tuple[int, int]:
    """(prompt, completion) tokens billed for the answer to a text."""
    return len(text), 1 + int(mark(text)[:2], 16)


class FaultyServer(ThreadingHTTPServer):
    """``plan`` lists what happens to each call about a text, in order; the last entry repeats for ever.

    ``asked`` holds the texts of all calls. ``billed`` counts how often the model wrote a whole answer about each text.
    A server bills that, whether or not anybody reads the answer.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, plan: Callable[[str], Sequence[str]], longest_delay: float = 0.0, stall: float = 4.0):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.plan, self.longest_delay, self.stall = plan, longest_delay, stall
        self.asked: list[str] = []
        self.came: dict[str, list[float]] = {}  # the times of the calls about each text
        self.billed: Counter[str] = Counter()
        self.busy = 0  # calls that are being answered
        self.changed = threading.Condition()
        self.url = f"http://127.0.0.1:{self.server_port}/v1"
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def wait_until(self, true: Callable[[], bool], seconds: float = 60.0) -> bool:
        """Whether a condition on the counts comes true in time."""
        with self.changed:
            return self.changed.wait_for(true, seconds)

    def handle_error(self, *_: object) -> None:
        """Say nothing about clients that went away."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: FaultyServer

    def do_POST(self) -> None:
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text = body["messages"][-1]["content"]
        with server.changed:
            server.asked.append(text)
            server.busy += 1
            calls = server.came.setdefault(text, [])
            calls.append(time.monotonic())
        try:
            plan = server.plan(text)
            kind = plan[min(len(calls), len(plan)) - 1]
            time.sleep(random.Random(f"{text}{len(calls)}").uniform(0, server.longest_delay))
            if kind not in PASSING:
                with server.changed:
                    server.billed[text] += 1
                    server.changed.notify_all()
            self._answer(text, kind)
        finally:
            with server.changed:
                server.busy -= 1
                server.changed.notify_all()

    def _answer(self, text: str, kind: str) -> None:
        if kind in ("429", "500"):
            header = "Retry-After: 1\r\n" if kind == "429" else ""
            self.wfile.write(_response(b'{"error": {"message": "busy"}}', int(kind), header))
        elif kind == "reset":
            self._hang_up()
        else:
            self._send(_completion(text, kind), kind)

    def _send(self, body: bytes, kind: str) -> None:
        if kind == "half json":
            body = body[: len(body) // 2]
        whole = _response(b"\n" * 200 + body if kind == "padded" else body)
        begun, rest = whole[:-40], whole[-40:]
        if kind == "stall":
            self.wfile.write(begun)
            # A client that gives up ends the wait.
            self.connection.settimeout(self.server.stall)
            with suppress(TimeoutError):
                self.connection.recv(1)
            self._hang_up()
        elif kind in ("cut", "reset halfway"):
            self.wfile.write(begun)
            self.close_connection = True
            if kind == "reset halfway":
                self._hang_up()
        elif kind in ("pieces", "padded"):
            for start in range(0, len(whole), 100):
                self.wfile.write(whole[start : start + 100])
                time.sleep(0.01)
        else:
            self.wfile.write(begun + rest + (whole if kind == "sent twice" else b""))

    def _hang_up(self) -> None:
        """Close without a goodbye, so that the client sees a reset."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        return


def _response(body: bytes, status: int = 200, header: str = "") -> bytes:
    head = f"HTTP/1.1 {status} x\r\nContent-Type: application/json\r\n{header}Content-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def _completion(text: str, kind: str) -> bytes:
    message = {"role": "assistant", "content": written(text, kind)}
    if kind == "refusal":
        message = {"role": "assistant", "content": None, "refusal": "I will not."}
    finish = "stop"
    if kind == "filter":
        message, finish = {"role": "assistant", "content": "Signals: half of"}, "content_filter"
    choice = {"index": 0, "finish_reason": finish, "message": message}
    other = {"index": 1, "finish_reason": "stop", "message": {"role": "assistant", "content": "Another one."}}
    prompt, completion = tokens(text)
    return json.dumps(
        {
            "id": "chat-1",
            "object": "chat.completion",
            "created": 0,
            "model": "model",
            "choices": [choice, other] if kind == "two choices" else [choice],
            "usage": {
                "prompt_tokens": prompt,
                "completion_tokens": completion,
                "total_tokens": prompt + completion,
            },
        }
    ).encode()
