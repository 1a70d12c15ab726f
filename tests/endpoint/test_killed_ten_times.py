"""Compares a build that is killed over and over, at any moment, with one that is left alone."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from faulty_server import FaultyServer
from killed_build import build

COUNT, KILLS, CONCURRENCY = 100, 10, 4
SETTINGS = {"count": COUNT, "concurrency": CONCURRENCY, "attempts": 3, "backoff_seconds": 0.01}


def plan(text: str) -> tuple[str, ...]:
    """Temporary faults, so that each request costs one answer if nothing is killed."""
    draw = random.Random(f"faults {text}")
    return (draw.choice(("500", "reset", "reset halfway", "half json")), "plain") * (draw.random() < 0.2) or (
        "plain",
    )


@pytest.fixture
def server():
    server = FaultyServer(plan, longest_delay=0.03)
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def builder():
    """Starts builds in child processes; see killed_build.py."""
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("killed_build.py"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    yield process
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def start(builder: subprocess.Popen, **settings: object) -> int:
    """The id of a child process that builds."""
    builder.stdin.write(json.dumps({**SETTINGS, **settings}) + "\n")
    builder.stdin.flush()
    return int(builder.stdout.readline())


def lines(cache: Path) -> list[dict]:
    """The texts on disk; only whole lines count."""
    found = []
    for path in sorted(cache.glob("*.jsonl")):
        for line in path.read_bytes().split(b"\n"):
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
    return [record for record in found if "identity" not in record]


def tear(cache: Path) -> None:
    """Cut the last line of each file short, as a machine that loses power does."""
    for path in cache.glob("*.jsonl"):
        os.truncate(path, path.stat().st_size - 5)


@pytest.mark.slow
def test_ten_kills_cost_what_was_in_flight_and_change_nothing(server, builder, tmp_path):
    left_alone = build(server.url, str(tmp_path / "alone"), **SETTINGS)
    expected = {record["key"]: record for record in lines(tmp_path / "alone")}
    assert len(expected) == 2 * COUNT
    pipeline, made = left_alone.pipeline, left_alone.records.items()
    by_answer = {record.draft: pipeline.draft_request(key).message for key, record in made}
    by_answer |= {record.text: pipeline.refine_request(key, record.draft).message for key, record in made}
    server.billed.clear()

    cache, records = tmp_path / "killed", tmp_path / "records.json"
    draw = random.Random(1)
    # Of 200 answers. Answers in flight come on top, so the last kill falls before the end.
    stops = [draw.randint(1, 28) for _ in range(KILLS)]
    assert sum(stops) + KILLS * CONCURRENCY <= 2 * COUNT
    lost: Counter[str] = Counter()
    for nth, stop in enumerate(stops):
        seen = server.billed.total()
        begun = len(server.asked)
        stored = {by_answer[record["text"]] for record in lines(cache)}
        child = start(builder, url=server.url, cache=str(cache), records=str(records))
        assert server.wait_until(lambda: server.billed.total() >= seen + stop)  # noqa: B023
        os.kill(child, signal.SIGKILL)
        assert int(builder.stdout.readline()) == -signal.SIGKILL
        time.sleep(0.1)  # lets calls arrive that were sent but not yet accepted
        assert server.wait_until(lambda: server.busy == 0)
        torn = nth % 3 == 2
        if torn:
            tear(cache)
        # Nothing that was on disk was asked for again.
        assert not stored & set(server.asked[begun:])
        stored = {by_answer[record["text"]] for record in lines(cache)}
        gone = {text: count for text, count in (server.billed - lost).items() if text not in stored}
        assert set(gone.values()) <= {1}
        assert len(gone) <= CONCURRENCY + 2 * torn
        lost.update(gone)
    assert not records.exists()

    start(builder, url=server.url, cache=str(cache), records=str(records))
    assert int(builder.stdout.readline()) == 0
    final = lines(cache)
    assert {record["key"]: record for record in final} == expected
    assert len(final) == len(expected)
    built = json.loads(records.read_text("utf-8"))
    assert {sample: (record["draft"], record["text"]) for sample, record in built.items()} == {
        key.sample_id: (record.draft, record.text) for key, record in left_alone.records.items()
    }
    assert server.billed == Counter(by_answer.values()) + lost
    print(f"{lost.total()} of {server.billed.total()} answers were paid for in vain")
