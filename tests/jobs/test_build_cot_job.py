"""The CoT pipeline as it is run: by the command line, with a real server, killed in the middle."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

SMALL = ["dataset.num_users=30", "dataset.num_items=40"]
SECRET = "sk-not-to-be-seen-anywhere"


class Server(ThreadingHTTPServer):
    """Answers chat requests after ``delay`` seconds and remembers them."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[dict] = []
        self.delay = 0.0
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        time.sleep(self.server.delay)
        with self.server.lock:
            self.server.asked.append(body)
        text = "Signals: red in most. Preference: mostly red, lately blue. Look for: red and blue lamps with stripes."
        answer = {
            "id": "1",
            "object": "chat.completion",
            "created": 1,
            "model": body["model"],
            "choices": [
                {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
            ],
            "usage": {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120},
        }
        data = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args) -> None:
        pass


@pytest.fixture
def server():
    running = Server()
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield running
    running.shutdown()
    running.server_close()


def command(folder: Path, *overrides: str) -> list[str]:
    return [
        *(sys.executable, "-m", "mllmrec.build_cot", *SMALL),
        *(f"cache_dir={folder / 'cache'}", f"hydra.run.dir={folder / 'out'}", *overrides),
    ]


def run(folder: Path, *overrides: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        command(folder, *overrides),
        capture_output=True,
        text=True,
        env={**os.environ, "OPENAI_API_KEY": SECRET},
    )


def through(server: Server) -> list[str]:
    return [
        "refine=openai",
        "refine.model=some-model",
        f"refine.base_url={server.url}",
        "refine.concurrency=2",
    ]


def test_the_embedded_default_writes_and_assesses_reasoning_without_any_model(tmp_path):
    done = run(tmp_path)
    assert done.returncode == 0, done.stderr
    records = [json.loads(line) for line in (tmp_path / "out" / "cot.jsonl").read_text("utf-8").splitlines()]
    assert len(records) == 30
    assert all(
        record["dataset"] == "synthetic" and record["target_id"] not in record["history_ids"]
        for record in records
    )
    kept = [record for record in records if not record["dropped"]]
    assert len(kept) == 15  # top_share 0.5 of 30
    released = json.loads((tmp_path / "out" / "deepseek_cot.json").read_text("utf-8"))
    assert {row["sample_id"]: row["reasoning"] for row in released} == {
        record["sample_id"]: record["text"] for record in kept
    }
    summary = json.loads((tmp_path / "out" / "summary.json").read_text("utf-8"))
    assert summary["stages"]["refined"] == {"samples": 30, "written": 30}
    assert summary["samples"] == {"matched": 15, "less confident": 15}


def test_a_dry_run_asks_for_nothing(tmp_path, server):
    done = run(tmp_path, *through(server), "dry_run=true", "refine.price_in=1000", "refine.price_out=0")
    assert done.returncode == 0, done.stderr
    assert server.asked == []
    (line,) = (line for line in done.stdout.splitlines() if "refined" in line)
    cells = [cell.strip() for cell in line.split("│")[1:-1]]
    assert cells[1] == "30"
    # Requests of some hundred characters each, four to a token, at 1,000 a million tokens.
    assert float(cells[4]) == pytest.approx(int(cells[2].replace(",", "")) / 1000, abs=0.006)
    assert not (tmp_path / "out" / "cot.jsonl").exists()


def test_a_killed_build_loses_only_what_was_in_flight(tmp_path, server):
    server.delay = 0.15
    log = (tmp_path / "log").open("w")
    first = subprocess.Popen(
        command(tmp_path, *through(server)),
        stdout=log,
        stderr=log,
        env={**os.environ, "OPENAI_API_KEY": SECRET},
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while len(server.asked) < 8 and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    log.close()
    time.sleep(2 * server.delay)
    before = len(server.asked)
    assert 8 <= before < 30
    server.delay = 0.0
    done = run(tmp_path, *through(server))
    assert done.returncode == 0, done.stderr
    # Two were in flight and two more may have been answered and not yet written.
    assert 30 - before <= len(server.asked) - before <= 30 - before + 4
    assert len((tmp_path / "out" / "cot.jsonl").read_text("utf-8").splitlines()) == 30
    again = run(tmp_path, *through(server))
    assert again.returncode == 0
    assert len(server.asked) <= 34


def test_no_file_and_no_output_holds_the_key(tmp_path, server):
    done = run(tmp_path, *through(server), "max_samples=5")
    assert done.returncode == 0, done.stderr
    assert len(server.asked) == 5
    assert SECRET not in done.stdout + done.stderr
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert SECRET.encode() not in path.read_bytes(), path


def test_no_request_on_the_wire_names_the_target(tmp_path, server):
    done = run(tmp_path, *through(server))
    assert done.returncode == 0, done.stderr
    records = [json.loads(line) for line in (tmp_path / "out" / "cot.jsonl").read_text("utf-8").splitlines()]
    titles = {}
    for row in json.loads((tmp_path / "out" / "deepseek_cot.json").read_text("utf-8")):
        for item in (*row["history_items"], row["target_item"]):
            titles[item["item_id"]] = item["title"]
    asked = [json.dumps(request["messages"], ensure_ascii=False) for request in server.asked]
    checked = 0
    for record in records:
        # The request of this record is the one that lists its history.
        own = [text for text in asked if all(titles.get(item, "") in text for item in record["history_ids"])]
        title = titles.get(record["target_id"])
        if (
            title
            and len(own) == 1
            and all(title not in titles.get(item, "") for item in record["history_ids"])
        ):
            assert title not in own[0]
            checked += 1
    assert checked >= 5


def test_a_server_that_refuses_the_key_stops_the_command(tmp_path):
    class Refusing(_Handler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            data = b'{"error": {"message": "wrong key"}}'
            self.send_response(401)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    refusing = ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    threading.Thread(target=refusing.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{refusing.server_port}/v1"
    done = run(tmp_path, "refine=openai", "refine.model=m", f"refine.base_url={url}")
    refusing.shutdown()
    refusing.server_close()
    assert done.returncode == 2
    assert "OPENAI_API_KEY" in done.stderr
    assert SECRET not in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_policy_of_reference_adds_lift_agreement_and_a_calibration(tmp_path):
    train = [
        *(sys.executable, "-m", "mllmrec.train", "debug=fast", *SMALL),
        f"cache_dir={tmp_path / 'cache'}",
    ]
    train += ["backbone.hidden_size=32", "backbone.vocabulary=400", f"hydra.run.dir={tmp_path / 'reference'}"]
    done = subprocess.run(train, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    split = ["split.windows=sliding", "split.min_history=2"]
    done = run(tmp_path, f"cot_policy.reference={tmp_path / 'reference'}", "max_samples=40", *split)
    assert done.returncode == 0, done.stderr
    records = [json.loads(line) for line in (tmp_path / "out" / "cot.jsonl").read_text("utf-8").splitlines()]
    assert len(records) == 40
    for record in records:
        scores = record["scores"]
        assert 0 < scores["lift"] < 1
        # The likeliest of ten has a tenth at least.
        assert 0.1 <= scores["agreement"] <= 1
    assert len({record["scores"]["lift"] for record in records}) > 20
    assert "Does what is kept help?" in done.stdout
    assert sum(not record["dropped"] for record in records) == 20
