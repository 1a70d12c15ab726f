"""Loads `mllmrec.serve` with users who ask one thing after another; one JSON line per cell.

    python experiments/bench_serve.py run=DIR round=1,2,3 workers=1,2 max_batch=16,1 users=16 requests=2000 seconds=60

Several values, separated by commas, make several cells. Rounds take turns, and a line at the end holds the medians of cells
that differ in nothing else, with their least and greatest. ``experiments/serving.md`` says what is measured and how.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from functools import cache, partial
from typing import Any

import httpx
import numpy as np
import psutil
from benchmark import wrk
from benchmark.cells import run_cells
from command_line import WrongUse

DEFAULTS: dict[str, Any] = {
    "round": 1,
    "run": "",  # folder of a finished run
    "tool": "own",  # wrk: that program sends the requests, all of them right, and nobody compares the answers
    "path": "/rank",
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
CHOICES: dict[str, Any] = {
    "tool": ("own", "wrk"),
    "path": ("/rank", "/explain"),
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


Questions = list[tuple[dict[str, Any], list[dict[str, Any]]]]


def questions_of(cell: dict[str, Any]) -> Questions:
    """Requests and their right answers, which `mllmrec.recommend`'s own code computes one by one."""
    return _questions(*(cell[name] for name in ("run", "seed", "candidates", "questions")))


@cache
def _questions(folder: str, seed: int, candidates: int, count: int) -> Questions:
    from mllmrec.jobs.finished_run import open_run
    from mllmrec.jobs.recommendation import item_codes, rank_items

    with redirect_stdout(sys.stderr):  # this script's lines alone go to stdout
        run = open_run(folder, None)
    generator, ids = random.Random(seed), run.prepared.builder.ids
    found = []
    for _ in range(count):
        drawn = generator.sample(ids, 8 + candidates)
        history, among = drawn[: generator.randint(2, 8)], drawn[8:] or None
        codes = item_codes(run.prepared, history)
        ranked = rank_items(run, codes, set(codes), candidates=among, shortlist=run.prepared.trained_list)
        right = [{"item": ids[item], "score": score} for item, score in ranked[:10]]
        found.append(({"history": history, "candidates": among}, right))
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

    def __init__(
        self, cell: dict[str, Any], questions: Questions, base: str, memory: Callable[[], list[int]]
    ) -> None:
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
                    status = (await client.post(self.cell["path"], content=wrong, headers=JSON)).status_code
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
                client.post(self.cell["path"], json=body, extensions={"trace": trace}), timeout=patience
            )
            self.counts["answered before hanging up"] += 1
        except asyncio.TimeoutError:
            self.counts["hung up" if sent else "hung up before it was sent"] += 1

    async def _ask(
        self, client: httpx.AsyncClient, body: dict[str, Any], right: list[dict[str, Any]]
    ) -> None:
        start = time.perf_counter()
        answer = await client.post(self.cell["path"], json=body)
        if answer.status_code == 200:
            self.times.append(time.perf_counter() - start)
            self.counts[verdict(answer.json()["ranking"], right)] += 1
        else:
            self.counts[f"status {answer.status_code}"] += 1


def serving(server: subprocess.Popen[str]) -> list[psutil.Process]:
    """The processes that rank: the workers, or the service itself if it has none."""
    process = psutil.Process(server.pid)
    return [one for one in process.children() if "spawn_main" in " ".join(one.cmdline())] or [process]


def memory_mb(processes: list[psutil.Process]) -> list[int]:
    """Resident memory of each process; none for one that died."""
    return [round(one.memory_info().rss / 2**20) for one in processes if one.is_running()]


def cpu_seconds(processes: list[psutil.Process]) -> np.ndarray:
    """What each process has taken of the processor so far."""
    return np.array([sum(one.cpu_times()[:2]) for one in processes])


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


def numbers_of(base: str, path: str) -> Counter[str]:
    """The service's own counts: answers of a path by status, and its batches (``count``) and the requests in them (``sum``)."""
    page = httpx.get(f"{base}/metrics", timeout=60).text
    statuses = re.findall(
        rf'^mllmrec_requests_total\{{endpoint="{path}",status="(\d+)"\}} (\S+)', page, re.MULTILINE
    )
    batches = re.findall(r"^mllmrec_batch_size_(count|sum) (\S+)", page, re.MULTILINE)
    return Counter({name: int(float(value)) for name, value in statuses + batches})


def loaded(
    cell: dict[str, Any], questions: Questions, base: str, memory: Callable[[], Any]
) -> dict[str, Any]:
    """Send the requests of a cell, and say what the clients saw."""
    if cell["tool"] == "wrk":
        seen = wrk.load(base + cell["path"], [body for body, _ in questions], cell["users"], cell["seconds"])
        answers = seen["answers"] - seen["status"]
        return {
            "took_s": seen["seconds"],
            "answers": answers,
            "p50_ms": seen["p50"],
            "p99_ms": seen["p99"],
            "outcomes": {"answered": answers, "another status": seen["status"], "lost": seen["lost"]},
        }
    load = Load(cell, questions, base, memory)
    seconds = asyncio.run(load.run())
    times = np.array(load.times) * 1000
    return {
        "took_s": seconds,
        "answers": len(times),
        "p50_ms": float(np.percentile(times, 50)),
        "p99_ms": float(np.percentile(times, 99)),
        "outcomes": dict(load.counts.most_common()),
        "memory_mb": load.memories,
    }


def measure(cell: dict[str, Any]) -> dict[str, Any]:
    """One cell's line."""
    if cell["tool"] == "wrk" and (cell["malformed"] or cell["gone"]):
        raise WrongUse("wrk sends neither nonsense nor hangs up: malformed=0 gone=0")
    questions = questions_of(cell)
    server, base = served(cell)
    try:
        processes = serving(server)
        memory = partial(memory_mb, processes)
        # Every worker meets its largest batches before memory is looked at.
        warm = {**cell, "requests": 10 * cell["users"], "seed": "warm-up"}
        asyncio.run(Load(warm, questions, base, memory).run())
        earlier, busy = numbers_of(base, cell["path"]), cpu_seconds(processes)
        seen = loaded(cell, questions, base, memory)
        busy, memories = cpu_seconds(processes) - busy, [*seen.pop("memory_mb", []), memory()]
        counted = numbers_of(base, cell["path"]) - earlier
        server.send_signal(signal.SIGTERM)
        status = server.wait(60)
    finally:
        server.kill()
    batches, batched = counted.pop("count"), counted.pop("sum")
    answers, seconds = seen.pop("answers"), seen["took_s"]
    return {
        **cell,
        "run": os.path.basename(cell["run"]),
        **{name: round(value, 1) if isinstance(value, float) else value for name, value in seen.items()},
        "answers_per_s": round(answers / seconds, 1),
        "mean_batch": round(batched / batches, 1),
        "statuses": dict(sorted(counted.items())),
        "cpu_ms_per_answer": round(1000 * float(busy.sum()) / answers, 1),
        "cpu_s": busy.round(1).tolist(),  # of each process that ranks
        "memory_mb": memories,  # of each, after the warm-up and after every quarter
        "exit_status": status,
        "load_average": round(os.getloadavg()[0], 1),
    }


MEDIANS = ("answers_per_s", "p50_ms", "p99_ms", "mean_batch", "cpu_ms_per_answer")


def medians(lines: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """For cells that differ in nothing but the round, the median, the least and the greatest of each figure."""
    alike: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        settings = {name: line[name] for name in DEFAULTS if name != "round"}
        alike.setdefault(json.dumps(settings), []).append(line)
    for settings, rounds in alike.items():
        if len(rounds) > 1:
            figures = {name: [line[name] for line in rounds] for name in MEDIANS}
            yield {
                **json.loads(settings),
                "rounds": len(rounds),
                **{name: [float(np.median(all_)), min(all_), max(all_)] for name, all_ in figures.items()},
            }


def main(arguments: list[str]) -> int:
    """Entry point."""
    lines: list[dict[str, Any]] = []

    def kept(cell: dict[str, Any]) -> dict[str, Any]:
        lines.append(measure(cell))
        return lines[-1]

    status = run_cells(arguments, DEFAULTS, CHOICES, kept)
    for line in medians(lines):
        print(json.dumps(line), flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
