"""Loads `mllmrec.serve` with users who ask one thing after another; one JSON line per cell.

    python experiments/bench_serve.py run=DIR max_batch=16,1 users=16 requests=2000 seconds=60

Several values, separated by commas, make several cells. ``experiments/serving.md`` says what is measured and how.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import httpx
import numpy as np
import psutil
from benchmark.cells import run_cells

DEFAULTS: dict[str, Any] = {
    "run": "",  # folder of a finished run
    "max_batch": 16,  # requests ranked together; 1: one user per forward
    "workers": 1,
    "users": 16,  # each asks, waits for the answer, and asks again
    "requests": 2000,  # sent in all, but for no longer than ...
    "seconds": 60.0,
    "candidates": 10,  # listed in the request; 0: the whole catalogue competes
    "questions": 200,  # different ones, drawn again and again
    "kept": 0,  # results that the service keeps
    "malformed": 0.05,  # share of requests that are wrong
    "gone": 0.05,  # share of requests whose client hangs up ...
    "patience": 0.3,  # ... after at most so many seconds
    "seed": 0,
}
CHOICES = {
    "max_batch": range(1, 1025),
    "workers": range(1, 65),
    "users": range(1, 1025),
    "requests": range(4, 10_000_001),
    "questions": range(1, 100_001),
}
WRONG: list[Any] = [
    b"{",
    b'{"history": ["nobody-has-this-id"]}',
    b'{"history": []}',
    b'{"history": [true]}',
    b'{"histroy": [1]}',
    b'{"history": [1], "k": 0}',
    b"\xff\xfe",
]
JSON = {"Content-Type": "application/json"}


def questions_of(cell: dict[str, Any]) -> list[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Requests and their right answers, which `mllmrec.recommend`'s own code computes one by one."""
    from mllmrec.jobs.finished_run import open_run
    from mllmrec.jobs.recommendation import item_codes, rank_items

    run = open_run(cell["run"], None)
    generator, ids = random.Random(cell["seed"]), run.prepared.builder.ids
    found = []
    for _ in range(cell["questions"]):
        drawn = generator.sample(ids, 8 + cell["candidates"])
        history, candidates = drawn[: generator.randint(2, 8)], drawn[8:] or None
        codes = item_codes(run.prepared, history)
        ranked = rank_items(
            run, codes, set(codes), candidates=candidates, shortlist=run.prepared.trained_list
        )
        right = [{"item": ids[item], "score": score} for item, score in ranked[:10]]
        found.append(({"history": history, "candidates": candidates}, right))
    return found


def verdict(answer: list[dict[str, Any]], right: list[dict[str, Any]]) -> str:
    """``right``; ``tied`` if items whose scores differ by rounding changed places; or ``wrong``."""
    scores = [[one["score"] for one in ranking] for ranking in (answer, right)]
    if len(answer) != len(right) or not np.allclose(*scores, atol=1e-4):
        return "wrong"
    own = {one["item"]: one["score"] for one in right}
    if any(abs(own.get(one["item"], one["score"]) - one["score"]) > 1e-4 for one in answer):
        return "wrong"
    same = [one["item"] for one in answer] == [one["item"] for one in right]
    return "right" if same else "tied"


class Load:
    """The users of one cell, and what became of their requests; ``memory`` is looked at after every quarter of them."""

    def __init__(self, cell: dict[str, Any], questions: list, base: str, memory: Callable[[], float]) -> None:
        self.cell, self.questions, self.base, self.memory = cell, questions, base, memory
        self.left = cell["requests"]
        self.counts: Counter[str] = Counter()
        self.times: list[float] = []
        self.memories = [memory()]

    async def run(self) -> float:
        """Send everything; return the seconds that it took."""
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        async with httpx.AsyncClient(base_url=self.base, timeout=60, limits=limits) as client:
            start = time.perf_counter()
            self.until = start + self.cell["seconds"]
            await asyncio.gather(*(self._user(client, number) for number in range(self.cell["users"])))
            return time.perf_counter() - start

    async def _user(self, client: httpx.AsyncClient, number: int) -> None:
        generator = random.Random(f"{self.cell['seed']} {number}")
        while self.left > 0 and time.perf_counter() < self.until:
            self.left -= 1
            if self.left and self.left % (self.cell["requests"] // 4) == 0:
                self.memories.append(self.memory())
            kind = generator.random()
            try:
                if kind < self.cell["malformed"]:
                    wrong = generator.choice(WRONG)
                    status = (await client.post("/rank", content=wrong, headers=JSON)).status_code
                    self.counts["refused" if status == 422 else f"malformed got {status}"] += 1
                elif kind < self.cell["malformed"] + self.cell["gone"]:
                    patience = generator.uniform(0, self.cell["patience"])
                    await self._hang_up(client, generator.choice(self.questions)[0], patience)
                else:
                    await self._ask(client, *generator.choice(self.questions))
            except httpx.TransportError:
                self.counts["lost"] += 1

    async def _hang_up(self, client: httpx.AsyncClient, body: dict[str, Any], patience: float) -> None:
        sent = False

        async def trace(event: str, _: dict[str, Any]) -> None:
            nonlocal sent
            sent = sent or event == "http11.send_request_body.complete"

        try:
            await asyncio.wait_for(
                client.post("/rank", json=body, extensions={"trace": trace}), timeout=patience
            )
            self.counts["answered before hanging up"] += 1
        except asyncio.TimeoutError:
            self.counts["hung up" if sent else "hung up before it was sent"] += 1

    async def _ask(
        self, client: httpx.AsyncClient, body: dict[str, Any], right: list[dict[str, Any]]
    ) -> None:
        start = time.perf_counter()
        answer = await client.post("/rank", json=body)
        if answer.status_code == 200:
            self.times.append(time.perf_counter() - start)
            self.counts[verdict(answer.json()["ranking"], right)] += 1
        else:
            self.counts[f"status {answer.status_code}"] += 1


def memory_mb(server: subprocess.Popen[str]) -> float:
    """Resident memory of the service with its workers."""
    process = psutil.Process(server.pid)
    return sum(one.memory_info().rss for one in [process, *process.children(recursive=True)]) / 2**20


def served(cell: dict[str, Any]) -> tuple[subprocess.Popen[str], str]:
    """A service that answers, and its address."""
    settings = [f"batching.{name}={cell[name]}" for name in ("max_batch", "kept")]
    command = [sys.executable, "-m", "mllmrec.serve", f"run={cell['run']}", "port=0", *settings]
    server = subprocess.Popen(
        [*command, f"workers={cell['workers']}"], stdout=subprocess.PIPE, text=True, env=dict(os.environ)
    )
    assert server.stdout is not None
    # Lines about the data may come first. Without an address the output has ended, and so has the service.
    found = next(filter(None, (re.search(r"http://[^\s;]+", line) for line in server.stdout)), None)
    while found and server.poll() is None:
        try:
            if httpx.get(f"{found[0]}/health", timeout=60).status_code == 200:
                return server, found[0]
        except httpx.TransportError:
            time.sleep(0.2)
    raise RuntimeError(f"the service ended with status {server.wait()}")


def numbers_of(base: str) -> Counter[str]:
    """The service's own counts: answers of /rank by status, and its batches (``count``) and the requests in them (``sum``)."""
    page = httpx.get(f"{base}/metrics", timeout=60).text
    statuses = re.findall(
        r'^mllmrec_requests_total\{endpoint="/rank",status="(\d+)"\} (\S+)', page, re.MULTILINE
    )
    batches = re.findall(r"^mllmrec_batch_size_(count|sum) (\S+)", page, re.MULTILINE)
    return Counter({name: int(float(value)) for name, value in statuses + batches})


def measure(cell: dict[str, Any]) -> dict[str, Any]:
    """One cell's line."""
    questions = questions_of(cell)
    server, base = served(cell)
    try:
        # Every worker meets its largest batches before memory is looked at.
        warm = {**cell, "requests": 10 * cell["users"], "seed": "warm-up"}
        memory = partial(memory_mb, server)
        asyncio.run(Load(warm, questions, base, memory).run())
        earlier, load = numbers_of(base), Load(cell, questions, base, memory)
        seconds = asyncio.run(load.run())
        memories, counted = [*load.memories, memory()], numbers_of(base) - earlier
        server.send_signal(signal.SIGTERM)
        status = server.wait(60)
    finally:
        server.kill()
    batches, batched = counted.pop("count"), counted.pop("sum")
    times = np.array(load.times) * 1000
    return {
        **cell,
        "run": os.path.basename(cell["run"]),
        "took_s": round(seconds, 1),
        "answers_per_s": round(len(times) / seconds, 1),
        "p50_ms": round(float(np.percentile(times, 50)), 1),
        "p99_ms": round(float(np.percentile(times, 99)), 1),
        "mean_batch": round(batched / batches, 1),
        "sent": cell["requests"] - load.left,
        "outcomes": dict(load.counts.most_common()),
        "statuses": dict(sorted(counted.items())),
        "memory_mb": [*map(round, memories)],  # after the warm-up and after every quarter
        "exit_status": status,
        "load_average": os.getloadavg()[0],
    }


if __name__ == "__main__":
    sys.exit(run_cells(sys.argv[1:], DEFAULTS, CHOICES, measure))
