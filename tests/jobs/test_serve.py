"""A finished run behind HTTP, on a real server."""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from mllmrec.errors import UserError
from mllmrec.jobs.finished_run import open_run
from mllmrec.jobs.recommendation import item_codes, rank_items
from mllmrec.serving.app import RankRequest
from mllmrec.serving.rankings import Rankings
from mllmrec.serving.server import build_app, read_token, warn_if_open
from mllmrec.serving.settings import TOKEN


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("served") / "run"


@pytest.fixture(scope="module")
def opened():
    return {}


@pytest.fixture
def run(job, run_folder, opened):
    """A run of a tiny policy on 40 items, whose training prompts list ten."""
    if not opened:
        job(run_folder, "method=sft", "caption=none", "sft.max_steps=1", "warmup.max_steps=1")
        opened["run"] = open_run(str(run_folder), None)
    return opened["run"]


@pytest.fixture
def gate(monkeypatch):
    """Holds every ranking until it is set; ``gate.asked`` are the questions whose turn came."""
    event, rank = threading.Event(), Rankings.rank
    event.asked = []

    def held(self, questions):
        event.asked.extend(questions)
        assert event.wait(20)
        return rank(self, questions)

    monkeypatch.setattr(Rankings, "rank", held)
    yield event
    event.set()


def until(true, seconds=10):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.005)


def expected(run, history, candidates=None, k=10):
    """What mllmrec.recommend prints."""
    codes, builder = item_codes(run.prepared, history), run.prepared.builder
    shortlist = run.prepared.trained_list
    ranked = rank_items(run, codes, set(codes), candidates=candidates, shortlist=shortlist)
    return [
        {"item": builder.ids[item], "title": builder.titles[item], "score": pytest.approx(score, abs=1e-5)}
        for item, score in ranked[:k]
    ]


@pytest.mark.parametrize("candidates", [None, 3, 12])
def test_rankings_are_those_of_recommend(run, served, candidates):
    ids = run.prepared.builder.ids
    among = None if candidates is None else ids[10 : 10 + candidates]
    answer = served(run).post("/rank", json={"history": ids[:3], "candidates": among, "k": 40})
    assert answer.status_code == 200
    assert answer.json() == {"ranking": expected(run, ids[:3], among, 40)}
    assert len(answer.json()["ranking"]) == (candidates or 37)


def test_requests_that_come_together_are_ranked_in_one_batch_and_as_alone(run, served):
    client = served(run, max_wait_ms=500, max_batch=12, kept=0)
    ids = run.prepared.builder.ids
    asked = [(ids[n : n + 3], None if n % 3 else ids[20 : 24 + n]) for n in range(12)]
    bodies = [{"history": history, "candidates": among} for history, among in asked]
    with ThreadPoolExecutor(12) as pool:
        answers = [*pool.map(lambda body: client.post("/rank", json=body), bodies)]
    assert [answer.json()["ranking"] for answer in answers] == [expected(run, *one) for one in asked]
    numbers = client.get("/metrics").text
    assert "mllmrec_batch_size_count 1.0" in numbers
    assert "mllmrec_batch_size_sum 12.0" in numbers


def test_the_same_question_is_computed_once(run, served, gate):
    gate.set()
    client, asked = served(run), {"history": run.prepared.builder.ids[:2], "k": 3}
    first, second = (client.post("/rank", json={**asked, "k": k}) for k in (3, 5))
    assert second.json()["ranking"][:3] == first.json()["ranking"]
    assert len(gate.asked) == 1
    numbers = client.get("/metrics").text
    assert 'mllmrec_kept_results_total{found="yes"} 1.0' in numbers
    assert 'mllmrec_kept_results_total{found="no"} 1.0' in numbers
    assert 'mllmrec_requests_total{endpoint="/rank",status="200"} 2.0' in numbers


@pytest.mark.parametrize(
    ("body", "status", "sentence"),
    [
        ({"history": ["nobody"]}, 422, "unknown item ids: nobody; items are"),
        ({"history": []}, 422, "unknown item ids: (none given)"),
        ({"history": ["{0}"], "candidates": ["{1}", "{1}"]}, 422, "candidates name item {1} twice"),
        ({"history": ["{0}"], "candidates": []}, 422, "unknown item ids: (none given)"),
        ({"history": ["{0}"] * 6}, 422, "history has 6 items: this service takes up to 5"),
        ({"history": ["{0}"], "candidates": ["{1}"] * 13}, 422, "candidates has 13 items"),
        ({"history": ["{0}"], "k": 99}, 422, "k=99: this service gives up to 20 items"),
        ({"history": ["{0}"], "k": 0}, 422, "k=0: Input should be greater than or equal to 1"),
        ({"history": ["{0}"], "k": "3"}, 422, "k='3': Input should be a valid integer"),
        ({"history": ["{0}", True]}, 422, "history[1]=True: an item id is a string or a whole number"),
        ({"history": ["{0}", [1]]}, 422, "history[1]: an item id is a string or a whole number"),
        ({"histroy": ["{0}"]}, 422, "history: Field required"),
        (
            {"history": ["{0}"], "user": 3},
            422,
            "user=3: there is no such field; there are history, candidates",
        ),
        (b"{", 422, "the body: it is no JSON"),
        (b"[]", 422, "the body: Input should be"),
        (b'{"history": ["\xe9"]}', 422, "the body: it is no JSON in UTF-8"),
        (b"[" * 1000, 422, "the body: "),
        (b'{"history": ["\\ud800"]}', 422, "unknown item ids: ?"),
        (b'{"history": ["' + b"x" * 900 + b'"]}', 422, "…"),
        (b" " * 1025, 413, "the request's body is larger than 1 KiB"),
    ],
)
def test_a_wrong_request_is_refused_with_one_sentence(run, served, body, status, sentence):
    ids = run.prepared.builder.ids

    def filled(value):
        return value.format(*ids) if isinstance(value, str) else value

    if isinstance(body, dict):
        body = {
            key: [*map(filled, value)] if isinstance(value, list) else value for key, value in body.items()
        }
    client = served(run, max_history=5, max_candidates=12, max_k=20, max_body_kb=1)
    given = (
        {"json": body}
        if isinstance(body, dict)
        else {"content": body, "headers": {"Content-Type": "application/json"}}
    )
    answer = client.post("/rank", **given)
    assert answer.status_code == status
    assert list(answer.json()) == ["detail"]
    assert filled(sentence) in answer.json()["detail"]
    assert client.get("/health").json()["status"] == "ok"


def test_a_body_of_unknown_length_is_bounded_too(run, served):
    client = served(run, max_body_kb=1, timeout_seconds=0.3)
    assert client.post("/rank", content=iter([b" " * 700] * 2)).status_code == 413
    with socket.create_connection((client.base_url.host, client.base_url.port)) as slow:
        slow.sendall(b"POST /rank HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{")
        assert slow.recv(1000).startswith(b"HTTP/1.1 408 ")


def test_more_requests_than_may_wait_are_refused(run, served, gate):
    client = served(run, queue=1, max_batch=1, max_wait_ms=0)
    ids = run.prepared.builder.ids
    with ThreadPoolExecutor(2) as pool:
        waits = []
        for n in range(2):  # one is ranked, one waits
            waits.append(pool.submit(client.post, "/rank", json={"history": [ids[n]]}))
            until(lambda n=n: len(gate.asked) == 1 and client.app.state.batches.waiting == n)
        refused = client.post("/rank", json={"history": [ids[2]]})
        assert refused.status_code == 429
        assert int(refused.headers["Retry-After"]) >= 1
        assert refused.json()["detail"].startswith("the queue is full: try again in ")
        gate.set()
        assert [wait.result().status_code for wait in waits] == [200, 200]


def test_a_ranking_that_takes_too_long_ends_with_504(run, served, gate):
    client = served(run, timeout_seconds=0.2, max_batch=1)
    ids = run.prepared.builder.ids
    late = client.post("/rank", json={"history": [ids[0]]})
    assert (late.status_code, late.json()["detail"][:37]) == (504, "the ranking took longer than 0.2 s; a")
    assert client.post("/rank", json={"history": [ids[1]]}).status_code == 504
    gate.set()
    until(lambda: client.app.state.batches.idle)
    assert client.post("/rank", json={"history": [ids[2]]}).json()["ranking"] == expected(run, [ids[2]])
    # Nobody waited for the second one any more when its turn came.
    assert [question.history for question in gate.asked] == [(0,), (2,)]


def test_a_client_that_hangs_up_takes_no_answer_of_others(run, served, gate):
    client = served(run, max_batch=1, max_wait_ms=0)
    ids = run.prepared.builder.ids
    batches = client.app.state.batches
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(client.post, "/rank", json={"history": [ids[0]]})
        until(lambda: len(gate.asked) == 1)
        with socket.create_connection((client.base_url.host, client.base_url.port)) as gone:
            body = f'{{"history": ["{ids[1]}"]}}'.encode()
            head = f"POST /rank HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            gone.sendall(head.encode() + body)
            until(lambda: batches.waiting == 1)
        last = pool.submit(client.post, "/rank", json={"history": [ids[2]]})
        until(lambda: batches.waiting == 2)
        until(lambda: 'endpoint="/rank",status="499"} 1.0' in client.get("/metrics").text)
        gate.set()
        answers = [first.result().json(), last.result().json()]
    assert [answer["ranking"] for answer in answers] == [expected(run, [ids[n]]) for n in (0, 2)]
    assert [question.history for question in gate.asked] == [(0,), (2,)]


def test_what_was_accepted_is_answered_after_the_service_takes_nothing_new(run, served, gate):
    client = served(run)
    ids = run.prepared.builder.ids
    with ThreadPoolExecutor(1) as pool:
        accepted = pool.submit(client.post, "/rank", json={"history": [ids[0]]})
        until(lambda: gate.asked)
        client.app.state.batches.close()
        refused = client.post("/rank", json={"history": [ids[1]]})
        assert (refused.status_code, refused.json()["detail"][:23]) == (503, "the service is stopping")
        assert client.get("/health").status_code == 503
        gate.set()
        assert accepted.result().json()["ranking"] == expected(run, [ids[0]])


def test_a_defect_is_one_sentence_and_counted(run, served, monkeypatch, caplog):
    monkeypatch.setattr(Rankings, "rank", lambda self, questions: 1 / 0)
    client = served(run)
    failed = client.post("/rank", json={"history": run.prepared.builder.ids[:1]})
    assert failed.status_code == 500
    assert failed.json() == {"detail": "the service failed at this request; its log says how"}
    assert 'endpoint="/rank",status="500"} 1.0' in client.get("/metrics").text
    assert "ZeroDivisionError" in caplog.text


def test_a_run_that_does_not_reason_explains_nothing(run, served):
    answer = served(run).post("/explain", json={"history": run.prepared.builder.ids[:1]})
    assert answer.status_code == 409
    assert answer.json()["detail"] == (
        "this run ranks without writing reasoning (method=sft, eval.ranking=likelihood): serve one of task=reasoned or "
        "task=profiled"
    )


def test_a_token_is_asked_for_except_by_health_and_the_page(run, served, caplog):
    caplog.set_level(logging.DEBUG)
    client = served(run, token="tok-81")
    for header in ({}, {"Authorization": "Bearer tok-8"}, {"Authorization": "Basic tok-81"}):
        refused = client.post("/rank", content=b"{", headers=header)
        assert (refused.status_code, refused.headers["WWW-Authenticate"]) == (401, "Bearer")
        assert client.get("/metrics", headers=header).status_code == 401
    right = {"Authorization": "Bearer tok-81"}
    assert (
        client.post("/rank", json={"history": run.prepared.builder.ids[:1]}, headers=right).status_code == 200
    )
    assert client.get("/metrics", headers=right).status_code == 200
    for path in ("/health", "/docs", "/openapi.json"):
        answer = client.get(path)
        assert answer.status_code == 200
        assert "tok-81" not in answer.text
    assert "tok-81" not in caplog.text


def test_the_token_comes_from_the_environment(monkeypatch, caplog):
    monkeypatch.setenv(TOKEN, "tok en")
    with pytest.raises(UserError, match=f"{TOKEN} holds blanks") as raised:
        read_token()
    assert "tok en" not in str(raised.value)
    monkeypatch.setenv(TOKEN, "token")
    assert read_token() == "token"
    for host, token, warned in (
        ("127.0.0.1", None, 0),
        ("localhost", None, 0),
        ("0.0.0.0", "token", 0),
        ("0.0.0.0", None, 1),
    ):
        caplog.clear()
        warn_if_open(host, token)
        assert len(caplog.messages) == warned


@pytest.mark.parametrize(
    ("host", "token", "status"),
    [("127.0.0.1", "", 403), ("::1", "", 403), ("127.0.0.1", "tok-81", 200), ("0.0.0.0", "", 200)],
)
def test_a_service_of_this_machine_without_a_token_answers_at_no_other_name(
    run, run_folder, monkeypatch, host, token, status
):
    monkeypatch.setattr("mllmrec.serving.server.open_run", lambda *_, **__: run)
    monkeypatch.setenv(TOKEN, token)
    plain = {"stage": None, "trust": [], "limits": {}, "batching": {}, "shortlist": None}
    app = build_app({**plain, "run": str(run_folder), "host": host})

    async def asked(name):
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app)) as client:
            return await client.get("http://a/openapi.json", headers={"Host": name})

    for name in ("localhost:8000", "127.0.0.1:7", "[::1]:8000", "localhost", "127.0.0.5"):
        assert asyncio.run(asked(name)).status_code == 200
    foreign = asyncio.run(asked("rebound.example:8000"))
    assert foreign.status_code == status
    if status == 403:
        assert foreign.json()["detail"].startswith("this server answers only at localhost: ")


def test_another_site_ranks_nothing_and_may_only_link_to_the_page(run, served):
    client = served(run, local=True)
    asked = {"history": run.prepared.builder.ids[:1]}
    own = str(client.base_url)
    assert client.post("/rank", json=asked, headers={"Origin": own}).status_code == 200
    refused = client.post("/rank", json=asked, headers={"Origin": "http://site.example"})
    assert (refused.status_code, refused.json()["detail"][:12]) == (403, "another site")
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert [client.get(path, headers=link).status_code for path in ("/docs", "/metrics")] == [200, 403]
    assert 'endpoint="/rank",status="403"} 1.0' in client.get("/metrics").text


def test_the_page_shows_every_field_and_its_examples_are_right(run, served):
    page = served(run).get("/openapi.json").json()
    assert set(page["paths"]) == {"/rank", "/explain", "/health", "/metrics"}
    assert {"200", "401", "403", "408", "413", "422", "429", "503", "504"} == set(
        page["paths"]["/rank"]["post"]["responses"]
    )
    schemas = page["components"]["schemas"]
    for name in ("RankRequest", "RankedItem", "Ranking", "Explanation", "Health", "Problem"):
        assert all(field.get("description") for field in schemas[name]["properties"].values()), name
    for example in schemas["RankRequest"]["examples"]:
        RankRequest.model_validate(example)


def test_an_address_that_is_taken_is_said_before_the_model_is_loaded(run, command, run_folder, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = command("serve", f"run={run_folder}", f"port={port}", cwd=tmp_path)
    assert done.returncode == 2
    assert f"host=127.0.0.1 port={port} cannot be listened on" in done.stderr


def test_wrong_settings_are_reported_together(command, tmp_path):
    wrong = ["port=99999", "batching.max_batch=0", "limits.timeout_seconds=-1"]
    done = command("serve", "run=folder", *wrong, cwd=tmp_path)
    assert done.returncode == 2
    assert all(fault.split("=")[0] in done.stderr for fault in wrong)


def test_without_its_libraries_the_service_says_what_to_install(
    run, command, run_folder, tmp_path, monkeypatch
):
    monkeypatch.delitem(sys.modules, "mllmrec.serving.server")
    monkeypatch.delattr("mllmrec.serving.server")
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    done = command("serve", f"run={run_folder}", cwd=tmp_path)
    assert done.returncode == 2
    assert "uvicorn is not installed" in done.stderr
    assert "pip install 'mllmrec[serve]'" in done.stderr


def test_a_load_run_tells_right_answers_from_wrong_ones(run, served, run_folder, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "experiments"))
    bench = importlib.import_module("bench_serve")
    asked = {"run": str(run_folder), "users": 2, "requests": 40, "questions": 2, "malformed": 0.25, "gone": 0}
    cell, base = {**bench.DEFAULTS, **asked}, str(served(run).base_url)
    questions = bench.questions_of(cell)

    def counts():
        load = bench.Load(cell, questions, base, lambda: 0.0)
        asyncio.run(load.run())
        assert sum(load.counts.values()) == 40
        return load.counts

    assert set(counts()) == {"right", "refused"}
    first, second = questions[0][1][:2]
    first["item"], second["item"] = second["item"], first["item"]
    assert set(counts()) == {"right", "refused", "wrong"}
    figures = dict.fromkeys(bench.MEDIANS, 1.0)
    rounds = [
        {**cell, **figures, "round": n, "answers_per_s": rate} for n, rate in ((1, 9.0), (2, 5.0), (3, 6.0))
    ]
    alone = {**cell, **figures, "workers": 2}
    (medians,) = bench.medians([*rounds, alone])
    assert (medians["rounds"], medians["answers_per_s"], medians["p50_ms"]) == (3, [6.0, 5.0, 9.0], [1.0] * 3)
    close = [{"item": "a", "score": -1.0}, {"item": "b", "score": -1.00001}]
    assert [bench.verdict(answer, close) for answer in (close, close[::-1], close[:1])] == [
        "right",
        "tied",
        "wrong",
    ]


@pytest.mark.slow
def test_sigterm_ends_the_command_after_what_was_accepted(run, run_folder):
    # Batches wait two seconds for more, so that requests are open when the signal comes.
    settings = ["port=0", "batching.max_wait_ms=2000"]
    environment = {**os.environ, TOKEN: "tok-81", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "mllmrec.serve", f"run={run_folder}", *settings]
    server = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    try:
        base = re.search(r"http://\S+?(?=;|$)", server.stdout.readline())[0]
        right = {"Authorization": "Bearer tok-81"}
        with httpx.Client(base_url=base, headers=right, timeout=30) as client:
            until(lambda: listens(client), 60)
            ids = run.prepared.builder.ids
            with ThreadPoolExecutor(3) as pool:
                accepted = [pool.submit(client.post, "/rank", json={"history": [item]}) for item in ids[:3]]
                time.sleep(0.5)
                server.send_signal(signal.SIGTERM)
                time.sleep(0.2)
                assert client.post("/rank", json={"history": [ids[3]]}).status_code == 503
                for item, wait in zip(ids, accepted, strict=False):
                    assert wait.result().json()["ranking"] == expected(run, [item])
        output, errors = server.communicate(timeout=30)
    finally:
        server.kill()
    assert (server.returncode, errors) == (0, "")
    assert "tok-81" not in output


def listens(client):
    try:
        return client.get("/health").status_code == 200
    except httpx.TransportError:
        return False
