"""The process that serves the pages to a browser of this machine."""

from __future__ import annotations

import logging
import os
import sys
import threading
import webbrowser
from collections.abc import Sequence
from pathlib import Path

import uvicorn

from mllmrec.errors import UserError
from mllmrec.exploring.app import make_app
from mllmrec.exploring.stored import StoredRun
from mllmrec.exploring.views import Explored
from mllmrec.serving.server import address, ended_by_signals, listening_socket, uvicorn_config

log = logging.getLogger(__name__)

HOST = "127.0.0.1"
_PATIENCE = 2  # seconds that a request may take after a signal


def open_folders(folders: Sequence[str], trust: Sequence[str] = ()) -> list[Explored]:
    """The runs of these folders, named by the parts of their paths that differ.

    Args:
        folders: those of the runs.
        trust: packages outside of mllmrec, and servers, that the runs' settings may name.

    Raises:
        UserError: no folder is given, one twice, or one holds no run.
    """
    if not folders:
        raise UserError("run= names no folder: give that of a run, or several: run=DIR,DIR")
    paths = [Path(folder).resolve() for folder in folders]
    twice = next((str(path) for place, path in enumerate(paths) if path in paths[:place]), None)
    if twice is not None:
        raise UserError(f"run= names {twice} twice: name each run once")
    stored = [StoredRun(folder) for folder in folders]
    return [Explored(name, run, trust) for name, run in zip(names_of(paths), stored, strict=True)]


def names_of(paths: Sequence[Path]) -> list[str]:
    """Short names of folders: as many of the last parts of each path as make all names differ."""
    longest = max(len(path.parts) for path in paths)
    for count in range(1, longest + 1):
        names = ["/".join(path.parts[-count:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]


def serve(folders: Sequence[str], port: int, browser: bool, trust: Sequence[str] = ()) -> None:
    """Serve the pages until a signal comes.

    Args:
        folders: those of the runs.
        port: 0 takes a free one.
        browser: whether to open the page in the browser of this desktop, if there is one.
        trust: see `open_folders`.

    Raises:
        UserError: a folder holds no run, or the port is taken.
    """
    explored = open_folders(folders, trust)
    try:
        bound = listening_socket(HOST, port)
    except UserError as error:
        raise UserError(
            f"port={port} cannot be listened on ({error.__cause__}): choose another; port=0 takes a free one"
        ) from error
    with bound:
        app = make_app(explored)
        server = uvicorn.Server(uvicorn_config(app, timeout_graceful_shutdown=_PATIENCE))
        bound.listen()
        url = address(bound)
        print(f"{', '.join(one.name for one in explored)}: {url} (Ctrl-C ends it)", flush=True)
        if browser and has_desktop():
            threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()
        with ended_by_signals(server):
            server.run(sockets=[bound])


def has_desktop() -> bool:
    """Whether a browser would open in a window. In a terminal it would take the command's place."""
    return sys.platform in ("darwin", "win32") or any(
        os.environ.get(n) for n in ("DISPLAY", "WAYLAND_DISPLAY")
    )
