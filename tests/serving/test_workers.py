"""Worker processes of the service: what becomes of one that dies or cannot start."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from contextlib import ExitStack
from subprocess import PIPE
from types import SimpleNamespace

import pytest
from fastapi import FastAPI
from prometheus_client.multiprocess import mark_process_dead
from prometheus_client.parser import text_string_to_metric_families
from uvicorn.config import STARTUP_FAILURE

from mllmrec.errors import UserError
from mllmrec.serving import workers
from mllmrec.serving.server import uvicorn_config
from mllmrec.serving.workers import OneAtATime, Workers, built_in_worker


class Ended:
    """A process that has ended with ``exitcode``, or lives."""

    def __init__(self, pid, exitcode=None):
        self.pid, self.exitcode, self.started = pid, exitcode, False
        self.process = SimpleNamespace(is_alive=lambda: exitcode is None)

    def start(self):
        self.started = True

    def join(self):
        assert self.exitcode is not None


@pytest.fixture
def supervisor(monkeypatch, tmp_path):
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    monkeypatch.setattr("uvicorn.supervisors.multiprocess.signal.signal", lambda *_: None)
    monkeypatch.setattr(workers, "Worker", lambda config, sockets: Ended(99))
    return Workers(uvicorn_config(None, workers=2), sockets=[])


def test_a_killed_worker_is_replaced_and_nothing_waits_in_it_any_more(supervisor, tmp_path, caplog):
    files = [tmp_path / f"{kind}_{pid}.db" for kind in ("gauge_livesum", "counter") for pid in (1, 2)]
    for file in files:
        file.touch()
    alive, killed = Ended(1), Ended(2, -9)
    supervisor.processes = [alive, killed]
    supervisor.keep_subprocess_alive()
    assert supervisor.processes[0] is alive
    assert (supervisor.processes[1].pid, supervisor.processes[1].started) == (99, True)
    assert [file.exists() for file in files] == [True, False, True, True]
    assert caplog.messages == ["worker process 2 died (SIGKILL); another one starts"]
    assert not supervisor.should_exit.is_set()


def test_a_worker_that_cannot_start_ends_the_service_with_its_sentence(supervisor, tmp_path):
    def no_run():
        raise UserError("runs/a has no phase b")

    told = tmp_path / "told.txt"
    with pytest.raises(SystemExit) as raised:
        built_in_worker(no_run, told)
    assert (raised.value.code, told.read_text()) == (STARTUP_FAILURE, "runs/a has no phase b")
    supervisor.processes = [Ended(1), Ended(2, STARTUP_FAILURE)]
    supervisor.keep_subprocess_alive()
    assert supervisor.failed
    assert supervisor.should_exit.is_set()
    assert [worker.pid for worker in supervisor.processes] == [1, 2]


def test_a_defect_at_the_start_is_logged_with_its_place(tmp_path, caplog):
    with pytest.raises(SystemExit):
        built_in_worker(lambda: 1 / 0, tmp_path / "told.txt")
    assert "ZeroDivisionError" in caplog.text
    assert not (tmp_path / "told.txt").exists()


def test_a_closed_terminal_ends_the_service(supervisor):
    supervisor.handle_hup()
    assert supervisor.should_exit.is_set()


class Counted(socket.socket):
    """A socket that notes at which turn of the loop a connection was asked for; ``turns`` and ``turn``."""

    turn = 0

    def accept(self):
        self.turns.append(self.turn)
        return super().accept()


def test_a_worker_leaves_connections_that_wait_to_the_others():
    async def run(bound):
        def turned():
            bound.turn += 1
            loop.call_soon(turned)

        loop = asyncio.get_running_loop()
        turned()
        server = OneAtATime(uvicorn_config(FastAPI(), backlog=1))
        server.config.load()
        server.lifespan = server.config.lifespan_class(server.config)
        await server.startup([bound])
        while len(server.server_state.connections) < 4:
            await asyncio.sleep(0)
        server.force_exit = True
        await server.shutdown([bound])

    with ExitStack() as ends:
        bound = ends.enter_context(Counted())
        bound.turns = []
        bound.bind(("127.0.0.1", 0))
        bound.listen()
        for _ in range(4):
            ends.enter_context(socket.create_connection(bound.getsockname()))
        asyncio.run(asyncio.wait_for(run(bound), 10))
    assert len(bound.turns) >= 4
    assert len(set(bound.turns)) == len(bound.turns)


PROCESS = """
import os, sys
from mllmrec.serving.metrics import Metrics
metrics = Metrics()
for _ in range(3):
    metrics.answered("/rank", 200, 0.02)
metrics.batch(3, 0.02)
metrics.looked_up(True)
metrics.waiting.set(2)
print(os.getpid(), flush=True)
sys.stdin.readline()
sys.stdout.write(metrics.page().decode())
"""


def test_the_numbers_of_two_processes_are_added_up(tmp_path):
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    processes = [
        subprocess.Popen([sys.executable, "-c", PROCESS], stdin=PIPE, stdout=PIPE, text=True, env=environment)
        for _ in range(2)
    ]
    for process in processes:
        process.stdout.readline()
    page = processes[0].communicate("\n")[0]
    mark_process_dead(processes[0].pid, str(tmp_path))
    left = processes[1].communicate("\n")[0]

    def numbers(text):
        return {
            (sample.name, *sorted(sample.labels.values())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    both = numbers(page)
    assert both["mllmrec_requests_total", "/rank", "200"] == 6
    assert both["mllmrec_request_seconds_bucket", "/rank", "0.025"] == 6
    assert both["mllmrec_batch_size_sum",] == 6
    assert both["mllmrec_kept_results_total", "yes"] == 2
    assert both["mllmrec_queue_length",] == 4
    # A process that ended keeps its counts and waits for nothing.
    assert numbers(left) == {**both, ("mllmrec_queue_length",): 2}
