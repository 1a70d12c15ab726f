from __future__ import annotations

import io
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from PIL import Image


def png(colour: str, format: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (64, 64), colour).save(stream, format)
    return stream.getvalue()


class Site:
    """A real HTTP server on loopback: `files` maps paths to bytes, `requests` lists (path, Range header)."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.cut: set[str] = set()  # paths for which only half arrives before the connection closes
        self.requests: list[tuple[str, str | None]] = []
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self.do_GET()

            def do_GET(self) -> None:
                wanted = self.headers.get("Range")
                if self.command == "GET":
                    site.requests.append((self.path, wanted))
                body = site.files.get(self.path)
                if body is None:
                    self.send_error(404)
                    return
                begin = int(wanted.removeprefix("bytes=").partition("-")[0]) if wanted else 0
                if begin >= len(body):
                    self.send_response(416)
                    self.send_header("Content-Range", f"bytes */{len(body)}")
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                self.send_response(206 if wanted else 200)
                if wanted:
                    self.send_header("Content-Range", f"bytes {begin}-{len(body) - 1}/{len(body)}")
                self.send_header("Content-Length", str(len(body) - begin))
                self.end_headers()
                if self.command == "GET":
                    end = begin + (len(body) - begin) // 2 if self.path in site.cut else len(body)
                    self.wfile.write(body[begin:end])

            def log_message(self, *_: object) -> None:
                return

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()


@pytest.fixture
def site():
    site = Site()
    yield site
    site.server.shutdown()
    site.server.server_close()


@pytest.fixture
def picture():
    return png


@pytest.fixture
def shared() -> Path:
    folder = Path(__file__).resolve().parents[2].parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no shared data in {folder}")
    return folder
