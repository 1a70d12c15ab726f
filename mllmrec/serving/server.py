"""The process or processes that listen."""

from __future__ import annotations

import logging
import os
import signal
import socket
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
import uvicorn
from fastapi import FastAPI

from mllmrec.config.servers import on_this_machine
from mllmrec.config.trust import trusted
from mllmrec.errors import UserError
from mllmrec.jobs.finished_run import open_run
from mllmrec.serving.app import make_app
from mllmrec.serving.metrics import SHARED_FOLDER
from mllmrec.serving.settings import TOKEN, Batching, Limits
from mllmrec.serving.stopping import SIGNALS
from mllmrec.serving.workers import Workers, built_in_worker

log = logging.getLogger(__name__)


def read_token() -> str | None:
    """The token that clients have to send, from the environment; None: there is none.

    Raises:
        UserError: it cannot be sent as a header. The message does not show it.
    """
    token = os.environ.get(TOKEN, "").strip()
    if not token.isascii() or not token.isprintable() or " " in token:
        raise UserError(
            f"{TOKEN} holds blanks, line breaks or other characters that no token has: set it again"
        )
    return token or None


def warn_if_open(host: str, token: str | None) -> None:
    """Warn if other machines may ask without a token."""
    if not on_this_machine(host) and token is None:
        log.warning(
            "host=%s without a token: whoever reaches this port can ask; export %s to ask for a token",
            host,
            TOKEN,
        )


def listening_socket(host: str, port: int) -> socket.socket:
    """A socket bound to the address; nobody can connect before a server listens.

    Raises:
        UserError: the address is taken or not one of this machine.
    """
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise UserError(
            f"host={host} port={port} cannot be listened on ({error.strerror or error}): choose another port; port=0 takes "
            "a free one"
        ) from error
    return bound


def address(bound: socket.socket) -> str:
    """The URL of a bound socket."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def build_app(settings: Mapping[str, Any], threads: int | None = None) -> FastAPI:
    """Open the run and make its application; a worker process calls this itself.

    Args:
        settings: those of ``conf/serve.yaml``, plain.
        threads: threads that torch takes; None: as many as it likes.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    run = open_run(settings["run"], settings["stage"], trust=trusted(settings["trust"]))
    token = read_token()
    return make_app(
        run,
        Limits(**settings["limits"]),
        Batching(**settings["batching"]),
        shortlist=settings["shortlist"],
        token=token,
        local=on_this_machine(settings["host"]) and token is None,
    )


def uvicorn_config(app: Any, **others: Any) -> uvicorn.Config:
    """How uvicorn serves an application."""
    # Metrics count requests; a line for each, or for each malformed one, would only fill the disk.
    return uvicorn.Config(app, log_config=None, log_level="error", access_log=False, lifespan="on", **others)


def serve_alone(app: FastAPI, bound: socket.socket) -> None:
    """Serve in this process until a signal comes and everything accepted was answered."""
    server = uvicorn.Server(uvicorn_config(app))
    with ended_by_signals(server):
        server.run(sockets=[bound])


def serve_in_workers(settings: Mapping[str, Any], bound: socket.socket, workers: int) -> None:
    """Serve in worker processes, each with the model, a queue and kept results of its own, until a signal comes.

    Raises:
        UserError: a worker cannot open the run.
        RuntimeError: a worker failed before it served; it has logged how.
    """
    threads = max(1, torch.get_num_threads() // workers)
    bound.set_inheritable(True)
    with tempfile.TemporaryDirectory(prefix="mllmrec-metrics-") as folder:
        os.environ[SHARED_FOLDER] = folder
        told = Path(folder) / "told.txt"
        build = partial(built_in_worker, partial(build_app, dict(settings), threads), told)
        supervisor = Workers(uvicorn_config(build, factory=True, workers=workers, backlog=1), sockets=[bound])
        supervisor.run()
        if supervisor.failed:
            if told.exists():
                raise UserError(told.read_text(encoding="utf-8"))
            raise RuntimeError("a worker process could not start")


@contextmanager
def ended_by_signals(server: uvicorn.Server) -> Iterator[None]:
    """Let signals end the server and nothing more: uvicorn raises them again after the end, which would look like a failure."""

    def end(number: int, frame: Any) -> None:
        server.should_exit = True

    before = {number: signal.signal(number, end) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
