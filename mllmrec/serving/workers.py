"""Worker processes: started, replaced when they die, and ended with the process that started them."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import parent_process, resource_tracker
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI
from prometheus_client.multiprocess import mark_process_dead
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import Multiprocess
from uvicorn.supervisors.multiprocess import Process

from mllmrec.errors.disk import user_error_behind

log = logging.getLogger(__name__)

_QUEUE = 2048  # connections that may wait to be taken


class OneAtATime(uvicorn.Server):
    """Takes one new connection at a time, so that the other processes that listen on the socket get some.

    asyncio takes as many as may wait to be taken, so the first worker to wake would get all of a client's connections.
    """

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen; uvicorn's ``backlog`` is 1, which says how many are taken, and here again how many may wait."""
        await super().startup(sockets)
        for bound in sockets or ():
            bound.listen(_QUEUE)


class Worker(Process):
    """A worker process."""

    @property
    def server(self) -> uvicorn.Server:
        """The server of the process, which makes it when it is first asked for."""
        if self._server is None:
            self._server = OneAtATime(self.config)
        return self._server


class Workers(Multiprocess):
    """Keeps worker processes alive.

    uvicorn asks each worker whether it answers, and waits: for a worker that was killed meanwhile, as long as a worker may take
    to import torch. Until then it neither replaces the worker nor ends. This looks at the processes alone.
    """

    failed = False  # whether a worker could not start

    def init_processes(self) -> None:
        """Start the workers."""
        self.processes.extend(self._started() for _ in range(self.processes_num))

    def keep_subprocess_alive(self) -> None:
        """Replace workers that died; end if one could not start, as others would not either."""
        for place, worker in enumerate(self.processes):
            if worker.process.is_alive():
                continue
            worker.join()
            # Its counts stay; what waited in it waits no more.
            mark_process_dead(worker.pid)
            if worker.exitcode == STARTUP_FAILURE:
                self.failed = True
                self.should_exit.set()
                return
            log.warning("worker process %s died (%s); another one starts", worker.pid, _end_of(worker))
            self.processes[place] = self._started()

    def handle_hup(self) -> None:
        """End, as every command does when its terminal closes."""
        self.handle_term()

    def _started(self) -> Worker:
        worker = Worker(self.config, self.sockets)
        with _interrupts_kept_from_children():
            worker.start()
        return worker


def built_in_worker(build: Callable[[], FastAPI], told: Path) -> FastAPI:
    """The application of a worker process, which ends with its parent; if there is none, the process ends with uvicorn's status.

    Args:
        build: makes it.
        told: file that receives the sentence of a `UserError`, if one is behind the failure.
    """
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        return build()
    except Exception as error:
        sentence = user_error_behind(error)
        if sentence is None:
            log.exception("a worker process could not start")
        else:
            told.write_text(str(sentence), encoding="utf-8")
    raise SystemExit(STARTUP_FAILURE)


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)


def _end_of(worker: Process) -> str:
    code: Any = worker.exitcode
    return signal.Signals(-code).name if code is not None and code < 0 else f"status {code}"


@contextmanager
def _interrupts_kept_from_children() -> Iterator[None]:
    """Let processes that start in the block get no Ctrl-C; it comes to this process, which ends them gently."""
    resource_tracker.ensure_running()  # it would let them through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
