"""A gentle end: after a signal, what was accepted is answered and new requests are refused with 503."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from mllmrec.serving.batches import Batches

SIGNALS = (signal.SIGINT, signal.SIGTERM)
_LOOK_SECONDS = 0.05


@contextmanager
def closed_by_signals(batches: Batches[Any, Any], seconds: float) -> Iterator[None]:
    """In the block, a signal closes ``batches`` first, and reaches the server once everything accepted was answered.

    A server by itself closes its port at once, and whoever connects then learns nothing. A second signal reaches it at once.
    Outside the main thread nothing changes.

    Args:
        batches: what is closed.
        seconds: the longest wait: after it no client waits for an answer any more.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    servers = {number: signal.getsignal(number) for number in SIGNALS}

    def pass_on(number: int, frame: FrameType | None) -> None:
        handler = servers[signal.Signals(number)]
        if callable(handler):
            handler(number, frame)

    async def end(number: int) -> None:
        until = time.monotonic() + seconds
        while not batches.idle and time.monotonic() < until:
            await asyncio.sleep(_LOOK_SECONDS)
        pass_on(number, None)

    ending: list[asyncio.Task[None]] = []

    def on_signal(number: int, frame: FrameType | None) -> None:
        if batches.closing:
            pass_on(number, frame)
            return
        batches.close()
        loop.call_soon_threadsafe(lambda: ending.append(loop.create_task(end(number))))

    for number in SIGNALS:
        signal.signal(number, on_signal)
    try:
        yield
    finally:
        for number, handler in servers.items():
            signal.signal(number, handler)
