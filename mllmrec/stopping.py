"""Signals that end a command: Ctrl-C (SIGINT), SIGTERM and a closed terminal (SIGHUP).

Each raises `Stopped` in the main thread, wherever the command is: in an import, in a loop of this package, or inside a
Lightning trainer, which by itself turns a KeyboardInterrupt into exit status 1 and SIGTERM into 0. This module imports only
the standard library, so that a command can watch for signals before imports that take seconds.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, NoReturn

AGAIN_SECONDS = (
    1.0  # `timeout`, a terminal and a sweep may each send the same signal; within this time they count as one
)
SWALLOWED_SECONDS = 0.1  # wait before raising a signal again that was lost in a destructor
CHILDREN_SECONDS = 10.0  # time for worker processes to record that they were stopped
HINT = "what is on disk is whole; start the command again"
RESUMABLE = "to go on, start it again with the same hydra.run.dir and resume=auto"
_WORDS = {
    "SIGINT": "interrupted (Ctrl-C)",
    "SIGTERM": "terminated (SIGTERM)",
    "SIGHUP": "terminal closed (SIGHUP)",
}
SIGNALS = tuple(getattr(signal, name) for name in _WORDS if hasattr(signal, name))

_received: Stopped | None = None
_received_at = 0.0
_swallowed = False
_said = False
_watching = False  # whether a block of `watching` is open
_patience: float | None = None  # seconds that a block of `patient` may take after a signal
_waiting: threading.Timer | None = None  # sends a signal again


class Stopped(BaseException):
    """A signal asked this process to end. It is not an Exception, since nothing failed and there is nothing to handle.

    Args:
        number: the signal's number.
    """

    def __init__(self, number: int) -> None:
        self.number = int(number)
        super().__init__(_WORDS.get(signal.Signals(self.number).name, f"signal {self.number}"))

    @property
    def status(self) -> int:
        """The exit status that shells use for the signal."""
        return 128 + self.number

    def __reduce__(self) -> tuple[type, tuple[int]]:
        return type(self), (self.number,)


def stopped_by() -> Stopped | None:
    """The signal that asked this process to end, or None."""
    return _received


def check_stopped() -> None:
    """Raise again if a signal came but its exception was lost, as in a library's bare ``except``; not while it waits.

    Raises:
        Stopped: a signal came.
    """
    if _received is not None and _patience is None:
        raise _received


@contextmanager
def watching(also: Sequence[int] = ()) -> Iterator[None]:
    """Let signals raise `Stopped` in the block. An ignored signal (nohup) stays ignored; outside the main thread nothing
    changes.

    Args:
        also: numbers of further signals.
    """
    global _watching
    before: dict[int, Any] = {}
    hook = sys.unraisablehook
    if threading.current_thread() is threading.main_thread():
        for number in (*SIGNALS, *also):
            if signal.getsignal(number) not in (signal.SIG_IGN, _on_signal):
                before[number] = signal.signal(number, _on_signal)
    outside, _watching = _watching, _watching or bool(before)
    if before:
        sys.unraisablehook = lambda dropped: None if _raise_again(dropped) else hook(dropped)
    try:
        yield
    finally:
        _watching = outside
        sys.unraisablehook = hook
        for number, handler in before.items():
            signal.signal(number, handler)


def watch_again() -> None:
    """Take SIGTERM back from a library that watches it as well, until that library gives it back."""
    if _watching and threading.current_thread() is threading.main_thread() and hasattr(signal, "SIGTERM"):
        signal.signal(signal.SIGTERM, _on_signal)


@contextmanager
def patient(seconds: float) -> Iterator[None]:
    """Let the first signal wait in the block until `arrived` is called, for so many seconds at most.

    So work that can be saved only at certain points is saved. A second signal still ends the process at once.
    """
    global _patience
    before, _patience = _patience, seconds
    try:
        yield
    finally:
        _patience = before


def arrived() -> Stopped | None:
    """The signal that waited in a block of `patient`; None if there is none. From now on `check_stopped` raises it."""
    global _patience
    if _received is not None:
        _patience = None
        if _waiting is not None:
            _waiting.cancel()
    return _received


@contextmanager
def stoppable(command: str, hint: str = HINT) -> Iterator[None]:
    """Run the block as a command: a signal ends it with one line on standard error and status 128 + its number.

    Args:
        command: the command's name, at the start of the line.
        hint: what to do next, at the end of the line.

    Raises:
        SystemExit: a signal came.
    """
    with watching():
        try:
            yield
            check_stopped()
        except BaseException as error:
            stopped = Stopped(signal.SIGINT) if isinstance(error, KeyboardInterrupt) else _received
            if stopped is None or _said:
                raise
            # Any other exception here is a consequence of the signal.
            _end(f"{command}: {stopped}; {hint}", stopped.status)


def end_at_once(status: int) -> NoReturn:
    """End without waiting for threads. Python would wait for them, many minutes if a request goes to a slow server."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(status)


def _end(line: str, status: int) -> NoReturn:
    global _said
    _said = True
    with suppress(OSError, ValueError):
        print(line, file=sys.stderr)
    if any(not thread.daemon for thread in threading.enumerate() if thread is not threading.main_thread()):
        end_at_once(status)
    raise SystemExit(status) from None


def _on_signal(number: int, frame: FrameType | None) -> None:
    global _received, _received_at, _swallowed
    now = time.monotonic()
    if _received is None:
        _received, _received_at = Stopped(number), now
        _pass_on()
        if _patience is not None:
            _send_again(_patience)
            return
    elif _swallowed:
        _swallowed = False
    elif now - _received_at < AGAIN_SECONDS:
        return
    else:
        os.write(2, f"{_received}, and again: ended at once\n".encode())
        os._exit(_received.status)
    raise _received


def _pass_on() -> None:
    """End this process's workers while this process can still end them gently."""
    multiprocessing = sys.modules.get("multiprocessing")
    children = multiprocessing.active_children() if multiprocessing else []
    for child in children:
        child.terminate()
    deadline = time.monotonic() + CHILDREN_SECONDS
    for child in children:
        child.join(max(0.0, deadline - time.monotonic()))


def _raise_again(dropped: sys.UnraisableHookArgs) -> bool:
    """Send a signal again if Python dropped its exception, in a destructor or a weak reference's callback."""
    if _received is None or dropped.exc_value is not _received:
        return False
    _send_again(SWALLOWED_SECONDS)
    return True


def _send_again(seconds: float) -> None:
    """Send the signal once more after a while, and then let it raise."""

    global _waiting

    def send() -> None:
        global _swallowed, _patience
        if _received is not None:
            _swallowed, _patience = True, None
            os.kill(os.getpid(), _received.number)

    _waiting = threading.Timer(seconds, send)
    _waiting.daemon = True
    _waiting.start()
