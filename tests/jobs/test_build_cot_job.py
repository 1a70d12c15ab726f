"""The CoT pipeline in real use: from the command line, with a real server, killed in the middle."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from mllmrec.config import CONFIG_DIR, check_config
from mllmrec.errors import UserError
from mllmrec.jobs.judge import open_judge
from mllmrec.samples.prepare import prepare

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


def settings(folder: Path, *overrides: str) -> list[str]:
    return [*SMALL, f"cache_dir={folder / 'cache'}", f"hydra.run.dir={folder / 'out'}", *overrides]


def process(folder: Path, *overrides: str) -> list[str]:
    return [sys.executable, "-m", "mllmrec.build_cot", *settings(folder, *overrides)]


@pytest.fixture
def run(command, monkeypatch):
    """The command in this process."""
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    return lambda folder, *overrides: command("build_cot", *settings(folder, *overrides), cwd=folder)


def through(server: Server) -> list[str]:
    return [
        "refine=openai",
        "refine.model=some-model",
        f"refine.base_url={server.url}",
        "refine.concurrency=2",
    ]


def test_the_embedded_default_writes_and_assesses_reasoning_without_any_model(run, tmp_path):
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
    released = json.loads((tmp_path / "out" / "synthetic_deepseek_cot.json").read_text("utf-8"))
    assert {row["sample_id"]: row["reasoning"] for row in released} == {
        record["sample_id"]: record["text"] for record in kept
    }
    summary = json.loads((tmp_path / "out" / "summary.json").read_text("utf-8"))
    assert summary["stages"]["refined"] == {"samples": 30, "written": 30}
    # Rules that count words agree with themselves: all 30 are equally confident.
    tied = "as confident, but beyond the share"
    assert summary["samples"] == {"matched": 15, tied: 15}
    funnel = json.loads((tmp_path / "out" / "funnel.json").read_text("utf-8"))
    assert [(stage["stage"], stage["in"], stage["kept"], stage["reasons"]) for stage in funnel] == [
        ("caption", 40, 40, {}),
        ("draft", 30, 30, {}),
        ("refined", 30, 30, {}),
        ("assess", 30, 15, {tied: 15}),
    ]
    assert f"{tied} 15" in done.stdout
    assert (tmp_path / "out" / "funnel.png").stat().st_size > 5000
    page = (tmp_path / "out" / "samples.html").read_text("utf-8")
    assert page.count("<article>") == 30
    assert {record["sample_id"] for record in records} == set(re.findall(r">sample ([^<]*)<", page))


def prepared(folder: Path, *overrides: str):
    """The training data of the main job."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        cfg = compose("train", [*SMALL, f"cache_dir={folder / 'cache'}", *overrides])
    check_config(cfg)
    return prepare(cfg, open_judge=open_judge)


def test_what_is_exported_is_read_back_as_it_was(run, tmp_path):
    done = run(tmp_path)
    assert done.returncode == 0, done.stderr
    records = {
        record["sample_id"]: record
        for record in map(json.loads, (tmp_path / "out" / "cot.jsonl").read_text("utf-8").splitlines())
    }
    captions, reasoning = (
        tmp_path / "out" / f"synthetic_{name}.json" for name in ("captions", "deepseek_cot")
    )
    same = ["split.windows=last", "split.min_history=1", "mix_ratio=1"]
    made = prepared(tmp_path, *same)
    read = prepared(
        tmp_path,
        *same,
        *("caption=precomputed", f"caption.path={captions}"),
        *("cot_policy=precomputed", f"cot_policy.path={reasoning}"),
    )
    assert read.captions == made.captions
    assert len(read.captions) == 40
    drafted = prepared(
        tmp_path,
        *same,
        *("caption=precomputed", f"caption.path={captions}", "draft=precomputed", f"draft.path={reasoning}"),
        "cot_policy=pseudo",
    )
    for index in range(30):
        key = read.train.cot_key(index)
        record = records[key.sample_id]
        assert read.cot.reasoning(key) == (None if record["dropped"] else record["text"])
        assert drafted.cot.reasoning(key) == read.cot.reasoning(key)
    assert read.summary["cot"]["coverage"] == {"matched": 15, "absent": 15}


def test_max_samples_takes_the_samples_that_training_looks_at_first(run, tmp_path):
    done = run(tmp_path, "max_samples=6")
    assert done.returncode == 0, done.stderr
    same = ["cot_policy=confident", "split.windows=last", "split.min_history=1"]
    # A tenth of 30 samples is 3, and half of the texts are kept.
    data = prepared(tmp_path, *same, "mix_ratio=0.1")
    assert data.summary["cot"]["stages"]["refined"] == {"samples": 6, "from_cache": 6}
    assert data.summary["cot"]["share"] == 0.1


def test_reasoning_about_released_data_carries_the_lines_of_its_file(command, tmp_path):
    items = range(1, 21)
    titles = "".join(f"{item},Movie {item}\n" for item in items)
    (tmp_path / "movielens_titles.csv").write_text(f"item,title\n{titles}")
    # Users a, b and c are on lines 0, 2 and 3.
    (tmp_path / "train.tsv").write_text("a\t1 2 3 4 5\n\nb\t2 3 4 5 6\nc\t3 4 5 6 7\n")
    (tmp_path / "test.tsv").write_text("d\t4 5 6 7 8\n")
    released = ["dataset=movielens", f"dataset.root={tmp_path}", "split=given", "split.validation_share=0"]
    done = command(
        "build_cot", *released, "cot_policy=refined", "caption=none", "hydra.run.dir=out", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "out" / "movielens_deepseek_cot.json").read_text("utf-8"))
    assert {row["user_id"]: row["line_idx"] for row in rows} == {"a": 0, "b": 2, "c": 3}
    assert rows[0]["history_items"][0] == {"item_id": "1", "title": "Movie 1"}


def test_a_dry_run_asks_for_nothing(run, tmp_path, server):
    done = run(tmp_path, *through(server), "dry_run=true", "refine.price_in=1000", "refine.price_out=0")
    assert done.returncode == 0, done.stderr
    assert server.asked == []
    (line,) = (line for line in done.stdout.splitlines() if "refined" in line)
    cells = [cell.strip() for cell in line.split("│")[1:-1]]
    assert cells[1] == "30"
    # Requests of some hundred characters each, four to a token, at 1,000 a million tokens.
    assert float(cells[4]) == pytest.approx(int(cells[2].replace(",", "")) / 1000, abs=0.006)
    assert not (tmp_path / "out" / "cot.jsonl").exists()


def test_a_dry_run_counts_paid_captions_and_makes_none(run, tmp_path, server):
    paid = ["caption=openai", "caption.model=some-model", f"caption.base_url={server.url}"]
    prices = ["caption.price_in=0", "caption.price_out=1000", "caption.max_tokens=50"]
    done = run(tmp_path, *paid, *prices, "dry_run=true")
    assert done.returncode == 0, done.stderr
    assert server.asked == []
    rows = [
        [cell.strip() for cell in line.split("│")[1:-1]] for line in done.stdout.splitlines() if "│" in line
    ]
    # 40 items, 50 tokens at most each, at 1,000 a million tokens.
    (caption,) = (row for row in rows if row[0] == "caption")
    assert (caption[1], caption[3], caption[4]) == ("40", "2,000", "2.00")
    done = run(tmp_path, *paid, *prices)
    assert done.returncode == 0, done.stderr
    assert len(server.asked) == 40
    # 40 answers of 20 tokens.
    assert "4,800 tokens, 0.8000 in money" in done.stdout


def test_a_killed_build_loses_only_what_was_in_flight(run, tmp_path, server):
    server.delay = 0.15
    log = (tmp_path / "log").open("w")
    first = subprocess.Popen(
        process(tmp_path, *through(server)),
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
    # A process, so that nothing that it writes is missed.
    done = subprocess.run(
        process(tmp_path, *through(server), "max_samples=5"),
        capture_output=True,
        text=True,
        env={**os.environ, "OPENAI_API_KEY": SECRET},
    )
    assert done.returncode == 0, done.stderr
    assert len(server.asked) == 5
    assert SECRET not in done.stdout + done.stderr
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert SECRET.encode() not in path.read_bytes(), path


def test_no_request_on_the_wire_names_the_target(run, tmp_path, server):
    done = run(tmp_path, *through(server))
    assert done.returncode == 0, done.stderr
    records = [json.loads(line) for line in (tmp_path / "out" / "cot.jsonl").read_text("utf-8").splitlines()]
    titles = {}
    for row in json.loads((tmp_path / "out" / "synthetic_deepseek_cot.json").read_text("utf-8")):
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


def test_a_server_that_refuses_the_key_stops_the_command(run, tmp_path):
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
def test_a_policy_of_reference_judges_the_users_that_it_was_not_trained_on(run, tmp_path):
    reference = tmp_path / "reference"
    train = [
        *(sys.executable, "-m", "mllmrec.train", "debug=fast", *SMALL, "dataset.max_users=12"),
        *("backbone.hidden_size=32", "backbone.vocabulary=400"),
        *(f"cache_dir={tmp_path / 'cache'}", f"hydra.run.dir={reference}"),
    ]
    # Not UTF-8, as with redirected output on Windows.
    done = subprocess.run(
        train, capture_output=True, text=True, env={**os.environ, "PYTHONIOENCODING": "ascii"}
    )
    assert done.returncode == 0, done.stderr
    assert "GRPO - SFT HR@1" in done.stdout
    assert "model shards" not in done.stderr  # transformers' own bar
    judging = [f"cot_policy.reference={reference}", "split.windows=sliding", "split.min_history=2"]
    done = run(tmp_path, *judging)
    assert done.returncode == 0, done.stderr
    records = [json.loads(line) for line in (tmp_path / "out" / "cot.jsonl").read_text("utf-8").splitlines()]
    trained = {row["user_id"] for row in records if row["dropped"] == "the reference trained on this user"}
    assert len(trained) == 12
    judged = [row for row in records if row["user_id"] not in trained]
    assert {row["user_id"] for row in judged} == {row["user_id"] for row in records} - trained
    assert len({row["user_id"] for row in judged}) == 18
    assert all(not row["text"] for row in records if row["user_id"] in trained)
    for row in judged:
        scores = row["scores"]
        assert 0 < scores["lift"] < 1
        # The likeliest of ten has a probability of at least a tenth.
        assert 0.1 <= scores["agreement"] <= 1
    assert len({row["scores"]["lift"] for row in judged}) > 20
    # Half of the texts that could be judged.
    assert abs(sum(not row["dropped"] for row in records) - len(judged) / 2) <= 1
    assert "Does what is kept help?" in done.stdout
    assert "cannot be judged by cot_policy.reference" in done.stdout
    funnel = json.loads((tmp_path / "out" / "funnel.json").read_text("utf-8"))
    (stage,) = (stage for stage in funnel if stage["stage"] == "reference")
    assert (stage["in"], stage["kept"]) == (len(records), len(judged))
    # The same users as in the reference, but other data under the same ids.
    for changed, message in (
        ("dataset.max_users=12", "it can judge none"),
        ("dataset.seed=1", "the same dataset"),
    ):
        other = prepared(tmp_path, "cot_policy=confident", "mix_ratio=0", *judging, changed)
        with pytest.raises(UserError, match=message):
            other.cot.make([other.train.cot_key(index) for index in range(5)])
