from __future__ import annotations

import time
from email.utils import formatdate
from itertools import pairwise

import pytest

from mllmrec.endpoint import Answer, Chat

ONE = [("k", Chat("0"))]


def first(reply, failure, success):
    """Fails at the first call of each text and succeeds after that."""
    return lambda call: failure if call.nth == 1 else reply(success)


def test_retry_after_in_seconds_is_waited_for(server, make_endpoint, reply, complete):
    server.reply = first(reply, reply({}, status=429, headers={"Retry-After": "1"}), complete("text"))
    assert dict(make_endpoint().complete(ONE))["k"].text == "text"
    one, two = server.calls
    # The wait is not the 0.01 s of the backoff.
    assert 1.0 <= two.time - one.time < 5


def test_retry_after_as_a_date_is_waited_for(server, make_endpoint, reply, complete):
    now = time.time()
    date = int(now) + 1 + (now % 1 > 0.7)  # a whole second that is 0.3 to 1.3 s away
    headers = {"Retry-After": formatdate(date, usegmt=True)}
    server.reply = first(reply, reply({}, status=503, headers=headers), complete("text"))
    assert dict(make_endpoint().complete(ONE))["k"].text == "text"
    assert date <= server.calls[1].time < date + 4


def test_waits_double(server, make_endpoint, reply, complete):
    server.reply = lambda call: reply({}, status=500) if call.nth < 4 else reply(complete("text"))
    assert dict(make_endpoint(backoff_seconds=0.1).complete(ONE))["k"].text == "text"
    times = [call.time for call in server.calls]
    waits = [later - earlier for earlier, later in pairwise(times)]
    # 0.1, 0.2, 0.4 s, each with up to 0.1 s of jitter plus the machine's own time.
    for wait, least in zip(waits, (0.1, 0.2, 0.4), strict=True):
        assert least <= wait < least + 2


def test_wait_is_jittered(server, make_endpoint, chats, reply, complete):
    server.reply = first(reply, reply({}, status=500), complete("text"))
    list(make_endpoint(backoff_seconds=0.2, concurrency=8).complete(chats(8)))
    began = {call.text: call.time for call in server.calls if call.nth == 1}
    waits = [call.time - began[call.text] for call in server.calls if call.nth == 2]
    assert min(waits) >= 0.2
    # Up to 0.2 s are added. All 8 draws lie below 0.06 s with a chance of 0.3^8, less than 1 in 10000.
    assert max(waits) > 0.26


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503])
def test_status_that_may_pass_is_tried_again(server, make_endpoint, reply, complete, status):
    server.reply = first(reply, reply({"error": {"message": "busy"}}, status=status), complete("text"))
    assert dict(make_endpoint().complete(ONE))["k"].text == "text"
    assert len(server.calls) == 2


@pytest.mark.parametrize(
    ("body", "settings"),
    [
        (b'{"choices": [{"mess', {"cut": True}),
        (b'{"choices": [{"mess', {}),
        (b'\xff\xfe{"a"', {}),
        (b"<html>busy</html>", {"headers": {"Content-Type": "text/html"}}),
        ({"error": {"message": "upstream is busy"}}, {}),
        ({"choices": []}, {}),
        ({"choices": [{"index": 0, "finish_reason": "stop"}]}, {}),
        ([1], {}),
        (None, {}),
    ],
    ids=["cut", "half", "bytes", "html", "error", "empty", "no message", "list", "null"],
)
def test_answer_that_is_none_is_tried_again(server, make_endpoint, reply, complete, body, settings):
    server.reply = first(reply, reply(body, **settings), complete("text"))
    assert dict(make_endpoint().complete(ONE))["k"].text == "text"
    assert len(server.calls) == 2


def test_silent_server_is_asked_again(server, make_endpoint, reply, complete):
    server.reply = lambda call: reply(complete("text"), delay=1.5 if call.nth == 1 else 0)
    assert dict(make_endpoint(timeout_seconds=0.5).complete(ONE))["k"].text == "text"
    assert len(server.calls) == 2


def test_tries_are_counted(server, make_endpoint, chats, reply, complete):
    server.reply = lambda call: reply({}, status=500) if call.text == "1" else reply(complete("text"))
    answers = dict(make_endpoint(attempts=3).complete(chats(3)))
    assert answers["k1"] == Answer(problem="no answer (HTTP 500)")
    assert server.texts().count("1") == 3
    assert (answers["k0"].text, answers["k2"].text) == ("text", "text")


@pytest.mark.parametrize(
    ("status", "error", "problem"),
    [
        (
            400,
            {"message": "too long", "code": "context_length_exceeded"},
            "HTTP 400: context_length_exceeded",
        ),
        (400, {"message": "no", "code": None, "type": "BadRequestError"}, "HTTP 400: BadRequestError"),
        (400, {"message": "no", "code": 400}, "HTTP 400"),
        (404, {"message": "no", "code": "not_found"}, "no answer (HTTP 404: not_found)"),
        (422, "no object", "HTTP 422"),
    ],
)
def test_refusal_of_one_request_is_its_problem(
    server, make_endpoint, chats, reply, complete, status, error, problem
):
    server.reply = lambda call: (
        reply({"error": error}, status=status) if call.text == "1" else reply(complete("text"))
    )
    answers = dict(make_endpoint().complete(chats(4)))
    assert answers["k1"] == Answer(problem=problem)
    assert [answers[key].text for key in ("k0", "k2", "k3")] == ["text"] * 3
    assert len(server.calls) == 4


def test_each_kind_of_failure_is_warned_of_once_in_the_words_of_the_server(
    server, make_endpoint, chats, reply, key, caplog
):
    server.reply = lambda call: reply({"error": {"message": f"bad\n{key}"}}, status=400)
    list(make_endpoint().complete(chats(3)))
    assert [record.message for record in caplog.records] == [f"{server.url}: HTTP 400 (bad OPENAI_API_KEY)"]
