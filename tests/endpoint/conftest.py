"""A real server on loopback that speaks as much of OpenAI's chat protocol as a test asks for."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mllmrec.endpoint import Chat
from mllmrec.endpoint.client import Endpoint

KEY = "sk-test-0123456789abcdef"


@dataclass
class Call:
    """A request as the server saw it."""

    text: str  # of the user's message
    nth: int  # 1 for the first call with this text
    body: dict[str, Any]
    key: str | None
    time: float  # of arrival


@dataclass
class Reply:
    """What the server replies."""

    body: Any = None  # JSON value, or bytes sent as they are
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0  # seconds
    cut: bool = False  # send half of the body, then close the connection


def completion(
    text: str | None, finish: str = "stop", usage: tuple[int, int] | None = (1, 4), **message
) -> dict:
    return {
        "id": "chat-1",
        "object": "chat.completion",
        "created": 0,
        "model": "model",
        "choices": [
            {
                "index": 0,
                "finish_reason": finish,
                "message": {"role": "assistant", "content": text, **message},
            }
        ],
        "usage": usage
        and {"prompt_tokens": usage[0], "completion_tokens": usage[1], "total_tokens": sum(usage)},
    }


def text_of(body: dict[str, Any]) -> str:
    content = body["messages"][-1]["content"]
    return content if isinstance(content, str) else content[-1]["text"]


class Server:
    """`calls` lists the calls received; `reply` decides the replies, and a test may replace it."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.most_at_once = 0
        self.reply: Callable[[Call], Reply] = lambda call: Reply(completion(f"re {call.text}"))
        self._at_once = 0
        self._lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                assert self.path == "/v1/chat/completions"
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with server._lock:
                    text = text_of(body)
                    nth = 1 + sum(call.text == text for call in server.calls)
                    call = Call(text, nth, body, self.headers.get("Authorization"), time.time())
                    server.calls.append(call)
                    server._at_once += 1
                    server.most_at_once = max(server.most_at_once, server._at_once)
                reply = server.reply(call)
                time.sleep(reply.delay)
                with server._lock:
                    server._at_once -= 1
                sent = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
                self.send_response(reply.status)
                headers = {"Content-Type": "application/json", "Content-Length": str(len(sent))}
                for name, value in {**headers, **reply.headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(sent[: len(sent) // 2] if reply.cut else sent)
                self.close_connection = reply.cut

            def log_message(self, *_: object) -> None:
                return

        class Quiet(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: object, client_address: object) -> None:
                return  # a client that gave up waiting

        self.http = Quiet(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()

    def wait_for(self, calls: int) -> None:
        """Wait until `calls` calls have come, or for five seconds."""
        end = time.time() + 5
        while len(self.calls) < calls and time.time() < end:
            time.sleep(0.01)

    def texts(self) -> list[str]:
        return [call.text for call in self.calls]


@pytest.fixture
def server():
    server = Server()
    yield server
    server.http.shutdown()
    server.http.server_close()


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    return KEY


@pytest.fixture
def make_endpoint(server: Server, key: str) -> Callable[..., Endpoint]:
    """An endpoint at the server that waits no time between tries."""

    def make(**settings: Any) -> Endpoint:
        return Endpoint("model", **{"base_url": server.url, "backoff_seconds": 0.01, **settings})

    return make


@pytest.fixture
def chats() -> Callable[..., list[tuple[str, Chat]]]:
    """Chats named 0, 1, …: the name is the message, and "k" with the name is the key."""

    def make(count: int) -> list[tuple[str, Chat]]:
        return [(f"k{number}", Chat(str(number))) for number in range(count)]

    return make


@pytest.fixture
def picture(tmp_path: Path) -> Callable[..., Path]:
    def make(name: str, colour: str = "red", size: tuple[int, int] = (64, 64)) -> Path:
        Image.new("RGB", size, colour).save(tmp_path / name)
        return tmp_path / name

    return make


@pytest.fixture
def reply() -> type[Reply]:
    return Reply


@pytest.fixture
def complete() -> Callable[..., dict]:
    return completion
